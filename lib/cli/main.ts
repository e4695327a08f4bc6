#!/usr/bin/env node
import { endOnBrokenPipe } from '../terminal.ts';
import { main } from './program.ts';

endOnBrokenPipe();
process.exitCode = await main(process.argv.slice(2));
