// Figures out of rounds.

/** The value below which `part` (0 to 1) of the values lie, interpolated. */
export function quantile(values, part) {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return Number.NaN;
  const at = (sorted.length - 1) * part;
  const low = Math.floor(at);
  return sorted[low] + (sorted[Math.ceil(at)] - sorted[low]) * (at - low);
}

export const median = (values) => quantile(values, 0.5);

/** Where the middle half and the middle eighty per cent of the values lie. */
export function spreadOf(values) {
  return {
    p10: quantile(values, 0.1),
    p25: quantile(values, 0.25),
    p75: quantile(values, 0.75),
    p90: quantile(values, 0.9),
  };
}

/** Whether a value meets '<= 1.05' or '>= 0.95'. */
export function meets(target, value) {
  const match = /^(<=|>=) (\d+(?:\.\d+)?)/.exec(target);
  if (match === null) throw new Error(`Expected a target like '<= 1.05' but received ${target}`);
  return match[1] === '<=' ? value <= Number(match[2]) : value >= Number(match[2]);
}
