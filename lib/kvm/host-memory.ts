/** Where a guest's address space takes host memory from: {@link Vm.hostMemory}. A small object over the mappings here. */
import { HostFile } from './host-file.ts';
import { HostMapping } from './host-mapping.ts';
import type { AnonymousOptions, FileMappingOptions } from './host-mapping.ts';

/** Where a guest address space takes host memory from. Each call gives a mapping that the caller closes. */
export interface HostMemory {
  /** Memory of `size` bytes, a multiple of 4096, that is in no file. */
  anonymous(size: number, options: AnonymousOptions): HostMapping;
  /** A new memfd of `size` bytes, mapped shared. `hugetlb`: the huge page size in bytes, or 0. */
  memfd(name: string, size: number, options: { readonly hugetlb: 0 | 0x200000 | 0x40000000 }): HostMapping;
  /** A range of a file: shared where `writable`, else writes stay in the mapping. */
  file(
    path: string,
    options: { readonly offset: number; readonly size: number; readonly writable: boolean },
  ): HostMapping;
  /** Another handle to the same memory, with views of its own. */
  again(mapping: HostMapping): HostMapping;
}

export const hostMemory: HostMemory = {
  anonymous: (size, options) => HostMapping.anonymous(size, options),
  memfd: (name, size, { hugetlb }) => mapAndClose(HostFile.memfd(size, { name, hugetlb }), { size }),
  file: (path, { offset, size, writable }) =>
    mapAndClose(HostFile.open(path, { writable }), { offset, size, shared: writable }),
  again: (mapping) => mapping.again(),
};

/** The mapping keeps the file, so the descriptor can go. */
function mapAndClose(file: HostFile, options: FileMappingOptions): HostMapping {
  try {
    return file.map(options);
  } finally {
    file.close();
  }
}
