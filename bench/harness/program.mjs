// A C program that lives as long as its benchmark: one line in ("run 1000"), one line of numbers out ("51234").
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

export class Program {
  #child;
  #waiting = [];
  #errors = '';
  #ended;

  constructor(path, argv = []) {
    this.#child = spawn(path, argv, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stdin.on('error', () => {});
    this.#child.stderr.setEncoding('utf8').on('data', (text) => (this.#errors += text));
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#waiting.shift()?.resolve(line));
    this.#ended = new Promise((resolve) => {
      const end = (why) => {
        const error = new Error(`${path}: ${this.#errors.trim() || why}`);
        for (const { reject } of this.#waiting.splice(0)) reject(error);
        resolve(error);
      };
      this.#child.on('error', (error) => end(error.message));
      this.#child.on('close', (code, signal) => end(`ended with ${signal ?? code}`));
    });
  }

  get pid() {
    return this.#child.pid;
  }

  /** Sends a command and its numbers; the numbers of the answer. The first is nanoseconds, by convention. */
  async call(command, ...numbers) {
    const answer = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    // A program that is gone already answers nothing.
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) throw await this.#ended;
    this.#child.stdin.write(`${[command, ...numbers].join(' ')}\n`);
    return (await answer).split(' ').map(Number);
  }

  /** The program ends at the end of its input. */
  async close() {
    this.#child.stdin.end();
    await this.#ended;
  }
}
