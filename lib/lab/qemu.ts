/** The emulated machine's command line. */

/** The processor that the lab has. `amd` is QEMU's emulation of SVM with nested paging. */
export type LabCpu = 'amd';

export interface MachineOptions {
  readonly cpu: LabCpu;
  readonly kernel: string;
  readonly initramfs: string;
  /** Bytes. */
  readonly memory: number;
  readonly cpus: number;
  readonly writable: readonly string[];
  /** Descriptors, in the new process, of the sockets for the console and for the port. */
  readonly consoleFd: number;
  readonly portFd: number;
}

export const QEMU = 'qemu-system-x86_64';

const KERNEL_COMMAND_LINE = [
  'console=ttyS0', 'quiet', 'panic=-1', 'reboot=t', 'no_timer_check', 'tsc=reliable', 'random.trust_cpu=on',
  'rcupdate.rcu_expedited=1', 'nokaslr',
].join(' ');

/** QEMU reads a comma as the end of a value; doubled, it is a comma. */
export function escapeValue(value: string): string {
  return value.replaceAll(',', ',,');
}

export function qemuArguments(options: MachineOptions): string[] {
  const share = (path: string, tag: string, more: string): string[] =>
    ['-virtfs', `local,path=${escapeValue(path)},mount_tag=${tag},security_model=none,multidevs=remap${more}`];
  return [
    '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
    '-machine', 'q35,usb=off,vmport=off', '-accel', 'tcg,thread=multi',
    // What TCG does not know of this model it leaves out, with a warning for each.
    '-cpu', 'EPYC-v3,+svm,+npt', '-smp', String(options.cpus), '-m', `${Math.ceil(options.memory / 2 ** 20)}M`,
    '-kernel', options.kernel, '-initrd', options.initramfs, '-append', KERNEL_COMMAND_LINE,
    '-chardev', `socket,id=console,fd=${options.consoleFd}`, '-serial', 'chardev:console',
    '-chardev', `socket,id=port,fd=${options.portFd}`, '-device', 'virtio-serial-pci',
    '-device', 'virtserialport,chardev=port,name=org.node-kvm.lab', '-device', 'virtio-rng-pci',
    ...share('/', 'root', ',readonly=on'),
    ...options.writable.flatMap((path, index) => share(path, `writable${index}`, '')),
  ];
}
