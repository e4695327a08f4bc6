/**
 * What the host says about itself in files: processor, modules, kernel options, devices. Read, not tried; it explains a
 * refusal and never decides one. Everything is optional, since any of it may be hidden (containers, other platforms).
 */
import { accessSync, constants, existsSync, readFileSync, readdirSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';

/** Which hardware mechanism the loaded KVM stands on. `'page-table'`: neither VMX nor SVM. */
export type KvmBackend = 'vmx' | 'svm' | 'page-table' | 'none';

export interface HostCpu {
  /** `'GenuineIntel'`, `'AuthenticAMD'`, ... or `''`. */
  readonly vendor: string;
  readonly model: string;
  readonly flags: ReadonlySet<string>;
}

export class Host {
  readonly root: string;
  readonly platform: string;
  readonly arch: string;
  /** uname -r. */
  readonly kernel: string;
  readonly cpu: HostCpu;
  /** Loaded or built-in modules of KVM: kvm, kvm_intel, kvm_amd, ... */
  readonly kvmModules: readonly string[];
  #config: ReadonlyMap<string, string> | undefined;

  /** `root` is where the files are looked for; another one is for tests. */
  constructor({
    root = '/',
    platform = process.platform,
    arch = process.arch,
    kernel = release(),
  }: {
    root?: string;
    platform?: string;
    arch?: string;
    kernel?: string;
  } = {}) {
    this.root = root;
    this.platform = platform;
    this.arch = arch;
    this.kernel = kernel;
    this.cpu = parseCpu(this.read('proc/cpuinfo') ?? '');
    this.kvmModules = this.list('sys/module').filter((name) => name === 'kvm' || name.startsWith('kvm_'));
  }

  /** The trimmed text of a file below root, or undefined where it cannot be read. */
  read(path: string): string | undefined {
    try {
      return readFileSync(join(this.root, path), 'utf8').trim();
    } catch {
      return undefined;
    }
  }

  list(path: string): string[] {
    try {
      return readdirSync(join(this.root, path)).sort();
    } catch {
      return [];
    }
  }

  exists(path: string): boolean {
    return existsSync(join(this.root, path));
  }

  /** Undefined where it may be opened for reading and writing, otherwise the errno's name. */
  refusal(path: string): string | undefined {
    try {
      accessSync(join(this.root, path), constants.R_OK | constants.W_OK);
      return undefined;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'EIO';
    }
  }

  /** `parameter('kvm_amd', 'npt')`: `'1'`, `'Y'`, ... or undefined. */
  parameter(module: string, name: string): string | undefined {
    return this.read(`sys/module/${module}/parameters/${name}`);
  }

  /** True, false, or undefined where there is no such parameter. */
  switchedOn(module: string, name: string): boolean | undefined {
    const value = this.parameter(module, name);
    return value === undefined ? undefined : /^(y|1|[2-9])/i.test(value);
  }

  /** `'y'`, `'m'`, a value, `'n'` for an option that is off, or undefined where the options cannot be read. */
  kernelOption(name: string): string | undefined {
    this.#config ??= this.#readConfig();
    if (this.#config.size === 0) return undefined;
    return this.#config.get(name.replace(/^CONFIG_/, '')) ?? 'n';
  }

  get backend(): KvmBackend {
    const special = this.kvmModules.filter((name) => name !== 'kvm');
    // A kernel may have both built in; only the one for this processor is at work.
    if (special.includes('kvm_intel') && (this.cpu.flags.has('vmx') || !special.includes('kvm_amd'))) return 'vmx';
    if (special.includes('kvm_amd')) return 'svm';
    return special.length > 0 ? 'page-table' : 'none';
  }

  /** The kind of container that this process runs in, where it shows; undefined outside. */
  get container(): string | undefined {
    if (this.exists('.dockerenv')) return 'docker';
    if (this.exists('run/.containerenv')) return 'podman';
    const name = /\0container=([^\0]+)/.exec(`\0${this.read('proc/1/environ') ?? ''}`)?.[1];
    if (name !== undefined) return name;
    return /(docker|kubepods|containerd|lxc)/.exec(this.read('proc/1/cgroup') ?? '')?.[1];
  }

  #readConfig(): ReadonlyMap<string, string> {
    let text = this.read(`boot/config-${this.kernel}`) ?? this.read(`lib/modules/${this.kernel}/config`);
    if (text === undefined) {
      try {
        text = gunzipSync(readFileSync(join(this.root, 'proc/config.gz'))).toString();
      } catch {
        return new Map();
      }
    }
    return new Map([...text.matchAll(/^CONFIG_(\w+)=(.*)$/gm)].map((match) => [match[1]!, match[2]!]));
  }
}

function parseCpu(text: string): HostCpu {
  const field = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
  return {
    vendor: field('vendor_id'),
    model: field('model name'),
    flags: new Set(field('flags').split(' ').filter(Boolean)),
  };
}
