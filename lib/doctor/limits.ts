/** Limits that guests of this process run into. */
import type { Host } from '../tier/host.ts';
import type { Findings } from './report.ts';

const LOW_FILES = 4096;

export function checkLimits(host: Host, found: Findings): void {
  const limits = host.read('proc/self/limits') ?? '';
  const limit = (name: string): string => new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(limits)?.[1] ?? 'unknown';
  const locked = limit('Max locked memory');
  found.info(
    'limits',
    'memlock',
    'Locked memory',
    locked === 'unlimited' || locked === 'unknown' ? locked : `${Number(locked) / 1024} KiB`,
    '/proc/self/limits',
    locked === 'unlimited'
      ? undefined
      : 'Matters for SEV and SEV-ES, which pin the whole guest: "ulimit -l unlimited", or LimitMEMLOCK= of the service',
  );
  const files = limit('Max open files');
  found.info(
    'limits',
    'nofile',
    'Open files',
    files,
    '/proc/self/limits',
    Number(files) < LOW_FILES
      ? 'Low for many VMs (a VM takes a descriptor for itself, each vCPU, guest_memfd and eventfd): "ulimit -n 65536"'
      : undefined,
  );

  const memory = host.read('proc/meminfo') ?? '';
  const kib = (name: string): number | undefined => {
    const value = new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(memory)?.[1];
    return value === undefined ? undefined : Number(value);
  };
  const available = kib('MemAvailable');
  if (available !== undefined)
    found.info('limits', 'memory', 'Memory available', `${Math.floor(available / 1024)} MiB`, '/proc/meminfo');
  const pages = kib('HugePages_Total');
  if (pages !== undefined) {
    found.info(
      'limits',
      'hugepages',
      'Reserved huge pages',
      `${pages} of ${(kib('Hugepagesize') ?? 0) / 1024} MiB, ${kib('HugePages_Free') ?? 0} free`,
      '/proc/meminfo',
      pages === 0 ? 'Only for hugetlb backings: "sysctl vm.nr_hugepages=512"' : undefined,
    );
  }
}
