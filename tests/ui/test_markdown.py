"""Foreign text is shown as it is: Streamlit reads almost every text as Markdown, which may fetch images."""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import inspector.ui
from inspector.ui.components.markdown import plain

UI = Path(inspector.ui.__file__).parent

# Calls that read a text as Markdown: name -> which arguments. 0, 1, ... are places; "help" and so on are names.
ELEMENTS = (
    "markdown", "caption", "subheader", "header", "title", "error", "warning", "info", "success", "toast", "spinner",
    "expander", "button", "toggle", "checkbox", "number_input", "text_input", "slider", "file_uploader", "radio",
    "pills", "segmented_control", "selectbox", "multiselect", "form_submit_button", "download_button",
    "popover", "metric", "progress",
)  # fmt: skip
OURS = (
    "choose_option", "choose_segment", "search_option", "choose_several", "switch", "enter_number", "upload_photos",
)  # fmt: skip
NAMES = ("label", "body", "text", "help")
# In these components, the options are Markdown, too.
OPTIONS = ("radio", "pills", "segmented_control", "choose_several", "choose_segment")

# Functions whose results are no foreign text, or are escaped.
SAFE_CALLS = {
    "plain", "format_number", "_format", "len", "verdict_badge", "_escape_name", "capitalize", "describe_layer",
    "_list_statistics", "list", "round", "make_caption", "_describe_task", "equation", "index", "next",
    "enter_number", "int", "_in_brackets", "_format_share",
}  # fmt: skip
# Names of numbers and of texts of our own, and of the parameters that controls.py passes on.
SAFE_NAMES = {
    "label", "text", "help", "options", "title", "channel", "row", "column", "count", "number", "page", "pages",
    "progress", "labels", "explanation", "kind", "names", "offered", "width", "height", "channels", "votes", "total",
    "n",
}  # fmt: skip
SAFE_ATTRIBUTES = {"sentence", "class_name", "backend", "grid", "quantity", "outcome"}


def find_foreign(node: ast.AST, function: ast.AST) -> Iterator[str]:
    """Find the parts of an expression that may hold foreign text."""
    match node:
        case ast.Constant():
            return
        case ast.JoinedStr(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from find_foreign(part, function)
        case ast.FormattedValue(value=value, format_spec=spec):
            # A format such as .1f or , is only possible for numbers.
            if not isinstance(spec, ast.JoinedStr) or not re.search("[efdg%,]$", ast.literal_eval(spec.values[0])):
                yield from find_foreign(value, function)
        case ast.BinOp(op=ast.Mult() | ast.Sub() | ast.Div()):
            return
        case ast.BinOp(left=left, right=right) | ast.IfExp(body=left, orelse=right):
            yield from find_foreign(left, function)
            yield from find_foreign(right, function)
        case ast.BoolOp(values=parts):
            for part in parts:
                yield from find_foreign(part, function)
        case ast.Call(func=ast.Attribute(attr="join" | "format"), args=args):
            for part in args:
                yield from find_foreign(part, function)
        case ast.Call(func=called) if ast.unparse(called).split(".")[-1] in SAFE_CALLS:
            return
        case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
            yield from find_foreign(element, function)
        case ast.Starred(value=value):
            yield from find_foreign(value, function)
        case ast.Name(id=name) if assigned := list(find_assigned(name, function)):
            for value in assigned:
                yield from find_foreign(value, function)
        case ast.Name(id=name) if name in SAFE_NAMES or name.isupper():
            return
        case ast.Attribute(attr=name) if name in SAFE_ATTRIBUTES or name.isupper():
            return
        case ast.Subscript(value=value):
            yield from find_foreign(value, function)
        case _:
            yield ast.unparse(node)


def find_assigned(name: str, function: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for one, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(one, ast.Name) and one.id == name:
                            yield value


def list_foreign(code: str) -> list[str]:
    """List the texts in a module that are shown as Markdown and may be foreign."""
    found = []
    tree = ast.parse(code)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions or [tree]:
        inner = {node for other in ast.walk(function) for node in ast.walk(other)
                 if isinstance(other, ast.FunctionDef) and other is not function}  # fmt: skip
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or node in inner:
                continue
            name = ast.unparse(node.func).split(".")[-1]
            name = "markdown" if ast.unparse(node.func) == "st.write" else name
            if name not in ELEMENTS and name not in OURS:
                continue
            first = 1 if name == "progress" else 0  # its first argument is a number
            texts = [*node.args[first : first + 1], *(entry.value for entry in node.keywords if entry.arg in NAMES)]
            if name in OPTIONS and not any(entry.arg == "format_func" for entry in node.keywords):
                texts += node.args[1:2]
            found += [f"{name}: {foreign}" for one in texts for foreign in find_foreign(one, function)]
    return found


MODULES = sorted(path for path in UI.rglob("*.py") if path.parent.name != "frontend")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(UI).as_posix())
def test_no_foreign_text_is_markdown(path: Path) -> None:
    assert list_foreign(path.read_text()) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("st.markdown(name)", ["markdown: name"]),
        ("st.caption(f'the network {network.name}')", ["caption: network.name"]),
        ("st.caption(f'the network {plain(network.name)}, {total:.1f} of {len(all)}')", []),
        ("def f():\n    text = f'the {name}'\n    st.info(text)", ["info: name"]),
        ("def f():\n    text = plain(name)\n    st.info(text)", []),
        ("st.error(str(error))", ["error: str(error)"]),
        ("st.write(error)", ["markdown: error"]),
        ("st.toggle('Title', help=card.title)", ["toggle: card.title"]),
        ("st.pills('Title', run_names)", ["pills: run_names"]),
        ("st.pills('Title', run_names, format_func=plain)", []),
        ("search_option(photo.name, options)", ["search_option: photo.name"]),
        ("st.markdown(', '.join(name for name in all_names))", ["markdown: name"]),
        ("st.markdown('a' + b.name if c else 'd')", ["markdown: b.name"]),
        ("st.dataframe(rows)", []),
    ],
)
def test_foreign_text_is_found(code: str, expected: list[str]) -> None:
    assert list_foreign(code) == expected


IMAGE = "![i](http://evil.example/x.png)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tiger cat", "tiger cat"),
        ("fashion_gap", "fashion_gap"),
        ("n02123045 (tabby), 5 - 3", "n02123045 (tabby), 5 - 3"),
        (IMAGE, r"!\[i\](http\://evil.example/x.png)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("a *b* _c_ `d` ~~e~~", r"a \*b\* \_c\_ \`d\` \~\~e\~\~"),
        (":red[a] :smile: $x$", r"\:red\[a\] \:smile\: \$x\$"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("&#33;[a](b)", r"\&#33;\[a\](b)"),
        ("two\n\nlines", "two  lines"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_a_text_is_escaped_where_markdown_would_read_it(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    "text", [IMAGE, "<b>a</b>", "[a](b)", "**a** __b__", "1) a", "  + a", "a\\", "$a$", "| a | b |"]
)
def test_a_text_is_shown_as_it_is(text: str) -> None:
    page = MarkdownIt("commonmark").enable(["strikethrough", "table"]).render(plain(text))
    assert re.fullmatch(r"<p>([^<]*)</p>\n", page), "no other element than a paragraph"
    assert html.unescape(page.removeprefix("<p>").removesuffix("</p>\n")) == text.strip()
