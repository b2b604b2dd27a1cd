"""The visible text of HTML."""

from rules.htmltext import visible_text


def test_runs_of_tags_and_entities_without_end() -> None:
    assert visible_text("a<b><i>b</i></b>c<p><b>d<<b>e<!-- <br --> f") == "abc de f"
    text = visible_text("&lt;" * 20_000)
    assert text.startswith("<<<") and text.endswith("&lt;")
