"""Values that are no settings, though a variable of ours holds them."""

from voiceai_pipeline.core.settings import Settings


def test_what_kubernetes_sets_beside_a_service_is_no_setting() -> None:
    names = ("VOICEAI_PAGE_PORT", "VOICEAI_SANDBOX_PORT")
    for link in ("tcp://10.96.0.12:8791", "tcp://[fd00::1]:8791", "udp://10.96.0.12:8791"):
        settings = Settings.load(dict.fromkeys(names, link))
        assert settings.page.port == Settings.load({}).page.port
        assert settings.highlevel.api_url == Settings.load({}).highlevel.api_url
