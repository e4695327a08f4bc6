// Memory that a process takes for a VM with 1 GiB of guest memory which its guest has written to: resident memory over
// bare Node, and page tables. The guest's own pages are in a guest_memfd and in no process.
import { fork } from 'node:child_process';
import { join } from 'node:path';
import { GiB, MiB } from './harness/memory.mjs';
import { median } from './harness/statistics.mjs';

const SMALL = 64 * MiB;

/** What a process of its own takes, in kB. */
function take(type, size) {
  return new Promise((resolve, reject) => {
    let result;
    const child = fork(join(import.meta.dirname, 'harness/footprint-child.mjs'), [type, String(size)], {
      execArgv: ['--expose-gc'],
    });
    child.on('message', (message) => (result = message));
    child.on('close', (code) => (result === undefined ? reject(new Error(`it ended with ${code}`)) : resolve(result)));
  });
}

export default {
  name: 'footprint',
  what: 'resident memory and page tables with 1 GiB that the guest has touched',
  async run(bench) {
    const type = bench.choose({ host: 'mapped', lab: 'private' });
    const rounds = bench.quick ? 3 : 7;
    const seen = { bare: [], small: [], large: [], smallC: [], largeC: [] };
    for (let round = 0; round < rounds; round++) {
      seen.bare.push(await take('bare', 0));
      for (const [name, size] of [
        ['small', SMALL],
        ['large', GiB],
      ]) {
        seen[name].push(await take(type, size));
        const program = bench.program('footprint');
        const [, rss, tables, kvmTables] = await program.call(type, size);
        await program.close();
        seen[`${name}C`].push({ rss, tables, kvmTables });
      }
      bench.progress(round + 1, rounds, 'footprint');
    }
    const kib = (name, what) => median(seen[name].map((each) => each[what]));
    const over = (name, what) => kib(name, what) - kib('bare', what);
    const memory = type === 'mapped' ? 'mapped guest_memfd' : 'private memory';
    // A KVM without tables of its own (EPT, NPT) reaches a mapped guest_memfd through this process's: then the guest's
    // pages count as its own, here and in C.
    const guest = kib('largeC', 'rss') > GiB / 2048 ? GiB / 1024 : 0;
    const beside = (over('large', 'rss') - guest) / 1024;
    const file = over('large', 'file') - guest;
    bench.row({
      name: `footprint 1 GiB ${memory}: resident over bare Node, beside the guest's pages`,
      unit: 'MiB',
      runs: rounds,
      target: '<= 8',
      ours: beside,
      baseline: (kib('largeC', 'rss') - guest) / 1024,
      value: beside,
      note: `bare Node has ${(kib('bare', 'rss') / 1024).toFixed(1)} MiB; ${(file / 1024).toFixed(1)} MiB of it are pages of files`,
    });
    // A GiB that was mapped would take 2 MiB of page tables.
    const growth = kib('large', 'tables') - kib('small', 'tables');
    bench.row({
      name: `footprint 1 GiB ${memory}: page tables over those of 64 MiB`,
      unit: 'kB',
      runs: rounds,
      target: { lab: '<= 64' },
      ours: growth,
      baseline: kib('largeC', 'tables') - kib('smallC', 'tables'),
      value: growth,
      note: `page tables over bare Node ${over('large', 'tables')} kB`,
    });
    bench.row({
      name: `footprint 1 GiB ${memory}: KVM's tables (SecPageTables)`,
      unit: 'kB',
      runs: rounds,
      ours: kib('large', 'kvmTables'),
      baseline: kib('largeC', 'kvmTables'),
    });
  },
};
