import pytest

from inspector.output.templates import render_template
from inspector.output.text import format_mean_and_deviation, format_number


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (-1.25, ".2f", "\N{MINUS SIGN}1.25"),
        (1.25, "+.1f", "+1.2"),
        (-1e-7, ".1e", "\N{MINUS SIGN}1.0e\N{MINUS SIGN}07"),
        (0.0, "+.3g", "0"),
        (-0.0, ".3g", "0"),
        (0.0, ".2f", "0.00"),
    ],
)
def test_numbers_have_a_true_minus_sign_and_a_general_zero_has_none(value, spec, text):
    assert format_number(value, spec) == text


def test_a_mean_stands_before_its_standard_deviation_if_there_is_one():
    assert format_mean_and_deviation(0.913, 0.002) == "0.9130 \N{PLUS-MINUS SIGN} 0.0020"
    assert format_mean_and_deviation(-0.5, None, ".1f") == "\N{MINUS SIGN}0.5"


def test_a_template_escapes_what_it_is_given():
    page = render_template("base.html", title="<script>", image_sources="data:")
    assert "<title>&lt;script&gt;</title>" in page
    assert "img-src data:;" in page
