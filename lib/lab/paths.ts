/** Where the lab's recipe is read from and where what was built is kept. */
import { existsSync, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The recipe: `lab/` of this package, found from here whether this file is in lib/ or in dist/. */
export function recipeDirectory(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'lab', 'kernel.config'))) {
    const parent = dirname(directory);
    if (parent === directory) throw new Error('the lab/ folder of node-kvm is missing beside its lib/ or dist/');
    directory = parent;
  }
  return join(directory, 'lab');
}

/** `$NODE_KVM_LAB_DIR`, or `node-kvm/lab` in the user's cache directory. */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  const own = env['NODE_KVM_LAB_DIR'];
  if (own !== undefined && own !== '') return resolve(own);
  const xdg = env['XDG_CACHE_HOME'];
  // The XDG specification: a relative path there is to be ignored.
  const cache = xdg !== undefined && isAbsolute(xdg) ? xdg : join(home(env), '.cache');
  return join(cache, 'node-kvm', 'lab');
}

/** $HOME may be unset or empty; os.homedir() would then give an empty one back. */
function home(env: NodeJS.ProcessEnv): string {
  return env['HOME'] || userInfo().homedir;
}

export interface CachePaths {
  readonly root: string;
  /** Finished kernels, a folder per key. */
  readonly kernels: string;
  /** Unfinished kernels: source, object tree, log. */
  readonly builds: string;
  readonly initramfs: string;
  readonly locks: string;
}

export function cachePaths(root: string = cacheDirectory()): CachePaths {
  return {
    root,
    kernels: join(root, 'kernels'),
    builds: join(root, 'builds'),
    initramfs: join(root, 'initramfs'),
    locks: join(root, 'locks'),
  };
}

export function readRecipe(name: string): string {
  return readFileSync(join(recipeDirectory(), name), 'utf8');
}
