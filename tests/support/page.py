"""A page as tests read it."""

import html.parser

VOID = {"meta", "img", "br", "wbr", "line", "rect", "circle", "input"}


class Page(html.parser.HTMLParser):
    """A page's words, and whether its tags are closed in order and nothing is loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.words, self.open, self.mistakes, self.links = "", [], [], []
        self.feed(text)
        self.mistakes += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        if tag == "link" or (tag == "script" and attributes):
            self.mistakes.append(f"<{tag}>")
        self.links += [v for k, v in attributes if k in ("src", "href") and v.startswith("cases/")]
        self.mistakes += [
            f"{k}={v}" for k, v in attributes if k in ("src", "href") and not v.startswith(("#", "data:", "cases/"))
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.mistakes.append(f"</{tag}>")

    def handle_data(self, data):
        self.words += data
