// One benchmark in a process of its own: what ran before it has warmed, grown or confused nothing.
import { join } from 'node:path';
import { Bench, Missing } from './bench.mjs';

const options = JSON.parse(process.argv[2]);
const api = await import('node-kvm');
const { default: benchmark } = await import(join(import.meta.dirname, '..', `${options.name}.mjs`));
const bench = new Bench({ ...options, api, report: (message) => process.send(message) });
try {
  await benchmark.run(bench);
} catch (error) {
  if (error instanceof Missing || error instanceof api.KvmUnsupportedError) process.send({ skipped: error.message });
  else process.send({ failed: error.stack ?? String(error) });
}
await bench.close().catch(() => {});
process.disconnect();
process.exit();
