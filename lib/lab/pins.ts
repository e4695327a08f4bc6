import { readRecipe } from './paths.ts';

/** What is known beforehand of the usual build (lab/pins.json). */
export interface Pins {
  /** Debian's package with the kernel source. */
  readonly sourcePackage: string;
  /** Files that are unpacked from it, and lines that make prints: for the progress of a first build. */
  readonly sourceFiles: number;
  readonly makeLines: number;
}

export function readPins(): Pins {
  return JSON.parse(readRecipe('pins.json')) as Pins;
}
