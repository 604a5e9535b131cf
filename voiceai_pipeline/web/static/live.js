// Replaces what a page shows of a user's sync when it changes. Without it, reload the page.
"use strict";

for (const place of document.querySelectorAll("[data-live]")) {
  const stream = new EventSource(place.dataset.live);
  stream.addEventListener("message", (event) => {
    const { user, html } = JSON.parse(event.data);
    const found = new DOMParser().parseFromString(html, "text/html").body;
    for (const cell of place.querySelectorAll(`[data-user="${user}"]`)) {
      // If the focused button disappears, the focus stays near.
      const hadFocus = cell.contains(document.activeElement);
      cell.replaceChildren(...document.importNode(found, true).childNodes);
      if (hadFocus) (cell.querySelector("button, a") ?? document.getElementById("main")).focus();
    }
  });
}
