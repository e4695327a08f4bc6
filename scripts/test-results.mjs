// What the rings of the test command found: one list of what was skipped and of what failed, and one count.
import { existsSync, readFileSync } from 'node:fs';
import { relative } from 'node:path';

/** @typedef {{ ring: string, passed: number, failed: string[], skipped: string[], seconds: number }} Result */

export class Results {
  /** @type {Result[]} */
  #results = [];
  #root;
  #lap = performance.now();

  constructor(root) {
    this.#root = root;
  }

  /** Takes what is given as the result of a ring that began where the last one ended. */
  add(ring, { passed = 0, failed = [], skipped = [] }) {
    const now = performance.now();
    this.#results.push({ ring, passed, failed, skipped, seconds: Math.round((now - this.#lap) / 1000) });
    this.#lap = now;
  }

  /** Takes the runner's own report as the only witness: a run that left none has failed. */
  addReport(ring, file, exitCode, alsoFailed = []) {
    if (!existsSync(file)) {
      this.add(ring, { failed: [`the ring ended with exit code ${exitCode} and left no report`, ...alsoFailed] });
      return;
    }
    const result = { passed: 0, failed: [...alsoFailed], skipped: [] };
    for (const suite of JSON.parse(readFileSync(file, 'utf8')).testResults) {
      const where = relative(this.#root, suite.name);
      if (suite.status === 'failed' && suite.assertionResults.every((test) => test.status !== 'failed')) {
        result.failed.push(`${where}: ${(suite.message ?? 'did not load').split('\n')[0]}`);
      }
      for (const test of suite.assertionResults) {
        const name = `${where} > ${test.fullName}`;
        if (test.status === 'passed') result.passed++;
        else if (test.status === 'failed') result.failed.push(name);
        else result.skipped.push(name);
      }
    }
    if (result.passed + result.failed.length + result.skipped.length === 0) result.failed.push('no test was found');
    if (exitCode !== 0 && result.failed.length === 0) result.failed.push(`exit code ${exitCode}`);
    this.add(ring, result);
  }

  /** Prints all of it and gives the exit code. */
  print() {
    for (const key of ['skipped', 'failed']) {
      if (this.#lines(key).length > 0) console.log(`${key}:\n${this.#lines(key).join('\n')}\n`);
    }
    for (const { ring, passed, failed, skipped, seconds } of this.#results) {
      const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
      console.log(`${time.padStart(6)}  ${ring}: ${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
    }
    const passed = this.#results.reduce((sum, result) => sum + result.passed, 0);
    const failed = this.#lines('failed').length;
    console.log(`\n${passed} passed, ${failed} failed, ${this.#lines('skipped').length} skipped`);
    return failed > 0 || passed === 0 ? 1 : 0;
  }

  #lines(key) {
    return this.#results.flatMap((result) => result[key].map((line) => `  ${result.ring}: ${line}`));
  }
}
