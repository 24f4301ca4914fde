// Numbers as text, with a true minus sign.

/** Three significant digits and a sign, as in "+0.12"; zero has no sign. */
export function formatSigned(value) {
  const text = String(Number(value.toPrecision(3))).replaceAll("-", "\u2212");
  return value > 0 ? `+${text}` : text;
}

/** A share of 0 to 1 in percent, as in "12.5%". */
export function formatPercent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

/** A number with so many decimals and a sign, as in "+0.180". */
export function formatSignedFixed(value, digits) {
  return `${value > 0 ? "+" : ""}${formatFixed(value, digits)}`;
}

/** A number with so many decimals, as in "−2.810"; one that rounds to zero has no sign. */
export function formatFixed(value, digits) {
  const text = value.toFixed(digits);
  return text.replace("-", Number(text) === 0 ? "" : "\u2212");
}
