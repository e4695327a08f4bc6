/** Kernel configuration fragments: what they ask for, and whether a config has it. */

export interface ConfigOption {
  /** With its `CONFIG_`. */
  readonly name: string;
  /** `y`, a number, a quoted string; `n` for `# CONFIG_X is not set`. */
  readonly value: string;
  /** A later or older kernel may do without it. */
  readonly optional: boolean;
}

const OPTIONAL = /\s+# optional$/;

/** The options of a fragment or a .config. Comments and empty lines are passed over; anything else is an error. */
export function parseConfig(text: string): ConfigOption[] {
  return text.split('\n').flatMap((line): ConfigOption[] => {
    const bare = line.replace(OPTIONAL, '').trim();
    const optional = OPTIONAL.test(line);
    const unset = /^# (CONFIG_\w+) is not set$/.exec(bare);
    if (unset !== null) return [{ name: unset[1]!, value: 'n', optional }];
    if (bare === '' || bare.startsWith('#')) return [];
    const set = /^(CONFIG_\w+)=(.+)$/.exec(bare);
    if (set === null) throw new SyntaxError(`Expected CONFIG_NAME=VALUE in a kernel configuration but received ${line}`);
    return [{ name: set[1]!, value: set[2]!, optional }];
  });
}

/** `base` with the fragment's options in place of its own. */
export function mergeConfig(base: string, fragment: string): string {
  const options = parseConfig(fragment);
  const named = new Set(options.map(({ name }) => name));
  const kept = base.split('\n').filter((line) => {
    const name = /^(?:# )?(CONFIG_\w+)(?:=| is not set)/.exec(line)?.[1];
    return name === undefined || !named.has(name);
  });
  const added = options.map(({ name, value }) => (value === 'n' ? `# ${name} is not set` : `${name}=${value}`));
  return `${kept.join('\n').trimEnd()}\n${added.join('\n')}\n`;
}

/** The fragment's options that `config` does not have as asked, those marked optional left out: `CONFIG_X=y` or the like. */
export function lostOptions(config: string, fragment: string): string[] {
  const values = new Map(parseConfig(config).map(({ name, value }) => [name, value]));
  return parseConfig(fragment)
    .filter(({ name, value, optional }) => !optional && (values.get(name) ?? 'n') !== value)
    .map(({ name, value }) => `${name}=${value}`);
}
