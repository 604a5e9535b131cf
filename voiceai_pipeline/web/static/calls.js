// Keyboard shortcuts of the pages of calls, and the time zone "mine". The pages work without it.
"use strict";
(() => {
  const follow = (id) => document.getElementById(id)?.click();
  const rows = [...document.querySelectorAll("table.calls a.open")];

  const mine = document.getElementById("mine");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const address = mine && new URL(mine.href);
  const shown = new URL(location.href).searchParams.get("zone");
  if (mine && zone && zone !== "UTC" && zone !== shown) {
    address.searchParams.set("zone", zone);
    mine.href = address;
    mine.hidden = false;
  }

  const step = (by) => {
    const at = rows.indexOf(document.activeElement);
    rows[Math.min(Math.max(at + by, 0), rows.length - 1)]?.focus();
  };
  const keys = {
    "/": () => document.getElementById("search")?.focus(),
    j: () => step(1),
    k: () => step(-1),
    "[": () => follow("previous"),
    "]": () => follow("following"),
    Escape: () => follow("back"),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });
})();
