/**
 * What the kernel's own tests of guest memory hold the kernel to, point by point. A test here is named by its point.
 * L: only in the form of the tests that came with Linux 6.12; N: only in the newest form; otherwise in both.
 */

export type Section =
  'guest_memfd' | 'slots' | 'conversions' | 'memory-fault exits' | 'pre-fault' | 'attributes' | 'SEV' | 'TDX';

export interface Point {
  /** Section and number: `'1.17'`. */
  readonly id: string;
  readonly section: Section;
  readonly text: string;
  readonly generation?: 'L' | 'N';
}

type Entry = string | readonly ['L' | 'N', string];

const n = (text: string): Entry => ['N', text];
const l = (text: string): Entry => ['L', text];

const TEXTS: Readonly<Record<Section, readonly Entry[]>> = {
  guest_memfd: [
    l('none of the 64 creation flags is known: EINVAL'),
    n("each flag that the VM's capability has makes a file"),
    n("each flag that the VM's capability lacks: EINVAL"),
    'every size below one page: EINVAL',
    'size 0, a negative size, a page and a byte: EINVAL',
    'a file of one page has the size of one page',
    'a second file of two pages has the size of two',
    'the first file still has one page',
    'two files are two inodes',
    'read is refused',
    'write is refused',
    'pread is refused',
    'pwrite is refused',
    'fstat works',
    'fstat gives the size asked for',
    'fstat gives the page as block size',
    'the whole file can be allocated',
    'punching from an offset between pages is refused',
    'allocating right behind the end is refused',
    'allocating a page further is refused',
    'punching right behind the end does nothing, and works',
    'punching a page further does nothing, and works',
    'punching a length that is no whole page is refused',
    'one page can be punched',
    'a punched page can be allocated again',
    'ten punches off the page borders: EINVAL each',
    'other fallocate modes: EOPNOTSUPP; truncation: EINVAL',
    l('a shared mapping is always refused'),
    n('without MMAP a shared mapping is refused, of one page and of all'),
    n('with MMAP a private mapping is refused'),
    n('with MMAP and INIT_SHARED a shared mapping holds what is written'),
    n('a page punched under its mapping reads as zero, and the others stay'),
    n('a punched page can be written again'),
    n('a mapping may be longer than the file, and raises SIGBUS there only'),
    n('without INIT_SHARED the first touch raises SIGBUS'),
    n('huge pages may be advised, not collapsed into; dropped pages come back'),
    n('pages 0 and 1 take an interleave policy, and give it back'),
    n('pages 2 and 3 take a bind policy, and give it back'),
    n('the default policy can be set again'),
    n('an unknown policy: EINVAL'),
    n('a policy says where the next allocation is, not where the last one was'),
    n('a default VM offers MMAP and INIT_SHARED'),
    n('the guest reads what the host wrote, and overwrites it'),
    n('the host reads what the guest wrote'),
  ],
  slots: [
    'a vCPU without any memory ends in an internal error',
    'the first call refuses each flag it does not know, guest-memfd too: EINVAL',
    'the second call refuses each flag that the VM does not know: EINVAL',
    'dirty logging of a slot with guest_memfd: EINVAL',
    'there is a limit of slots, above 0',
    'as many slots of 2 MiB as the limit allows can be made',
    'one more slot: EINVAL',
    'the system handle is no guest_memfd: EINVAL',
    "the VM's handle is no guest_memfd: EINVAL",
    'a memfd is no guest_memfd: EINVAL',
    "another VM's guest_memfd: EINVAL",
    'that guest_memfd is taken by its own VM',
    'each offset inside the first page of the file: EINVAL',
    'offset 0 is taken, and the file may be closed then',
    'a slot with a guest_memfd can be deleted',
    'a slot over the front of another: EEXIST',
    'a slot over the back of another: EEXIST',
    'moving: an MMIO exit is a read',
    'moving: an MMIO exit has 8 bytes',
    'moving: an MMIO exit is at the base of the region',
    'a slot moved away shows the next page, never the word before',
    'the moment without the slot is an MMIO exit, if it is seen',
    'a slot moved back shows its first page',
    'moving: the vCPU goes on at each step and ends by itself',
    'a deleted slot gives MMIO exits, and the guest lives on',
    'a slot made again has zeros',
    'deleted again, it gives MMIO exits again',
    'deleting slot 0 ends the guest by shutdown or internal error',
    'after an internal error the guest is still in its last loop',
    n('an event that faults while it is delivered is an internal error with its address'),
  ],
  conversions: [
    'the hypercall is KVM_HC_MAP_GPA_RANGE, and no other',
    'the range is punched or allocated across slots',
    'the attributes of the range are set',
    'the result 0 goes back, and the guest goes on',
    'memory is shared at first: the host sees what the guest wrote',
    'the guest sees what the host wrote',
    'private writes do not reach the shared side',
    'the guest reads its private bytes back',
    'what is around the range stays as it was',
    'odd pages become shared one by one, and even pages stay private',
    'the range becomes shared as a whole, and both sides see it',
    'after each range all is shared and nothing is left private',
    'private pages come with the first touch',
    'punched private pages read as zero, with no fault',
    'a guest_memfd can be punched when its VM is closed',
    'and be allocated again, until it is closed as well',
    'many vCPUs do all of this at once',
  ],
  'memory-fault exits': [
    'private memory whose slot goes: EFAULT with a memory fault',
    'its flags are the private bit alone',
    'its address is that of the page',
    'its size is one page',
    'private memory in a slot without guest_memfd: EFAULT with a memory fault',
    'that fault has the private bit, the page and its size',
    'a run fails with EFAULT alone, and then tells a memory fault',
  ],
  'pre-fault': [
    'a call makes progress or fails, never both',
    'a call cut short is repeated with what it left',
    n('a slot that goes meanwhile and comes back changes nothing in the end'),
    '2 MiB from the start are done with nothing left',
    'a page inside and one behind: the first is done, then ENOENT',
    'a page behind the slot: ENOENT with nothing done',
    'the guest then reads every page of the slot',
    'flags, an odd address or size, no size, a wrap: EINVAL',
  ],
  attributes: [
    'flags: EINVAL',
    'an attribute that the VM does not know: EINVAL',
    'no attributes on a default VM: success',
    'no size, a wrap, an odd address or size: EINVAL',
    'attributes may come before the slot, and are remembered',
    'capabilities differ between the system and each type of VM',
    'the cost grows with the range, so a range is bounded',
    'pre-fault of a private page without slot: EFAULT',
    'a guest_memfd closed under its slot: the next private access faults',
    'private writes leave the shared side as it was',
    'a VM type that the mask lacks: EINVAL',
  ],
  SEV: [
    'the system tells the VMSA features it knows',
    'the types offered agree with CPUID, both ways',
    'INIT2 without parameters works for each type',
    'INIT2 on a VM that is not SEV: EINVAL',
    'each flag of INIT2: EINVAL',
    'each VMSA feature that is not known: EINVAL',
    'a launch goes from start to finish, and the state follows',
    'the guest finds SEV in CPUID and MSR',
    'an SEV-ES guest ends by a termination event',
    'an SEV-ES guest with a broken interrupt table shuts down',
    'an SEV-ES guest starts with the FPU state that was set',
    n('an SNP guest does the same'),
    'a guest can be moved from VM to VM, and not back to a dead one',
    'moves in circles from many threads do not lock up',
    'moves between VMs that do not fit: EINVAL',
    'a VM can mirror another, and have vCPUs then',
    'a mirror takes the few commands for mirrors, and EINVAL for the rest',
    'a mirror of itself, of no SEV VM, onto a VM with vCPUs or SEV: EINVAL',
    'mirrors and owners may be moved and freed in any order',
    n('debug commands decrypt what was encrypted, in any size and place'),
  ],
  TDX: ['the type is not offered without the hardware', 'making a VM of that type: EINVAL'],
};

export const POINTS: readonly Point[] = Object.entries(TEXTS).flatMap(([section, entries], at) =>
  entries.map((entry, index): Point => {
    const base = { id: `${at + 1}.${index + 1}`, section: section as Section };
    return typeof entry === 'string' ? { ...base, text: entry } : { ...base, generation: entry[0], text: entry[1] };
  }),
);

const byId = new Map(POINTS.map((one) => [one.id, one]));

/** The name of a point's test; `variant` where a point has several: the VM type, the backing. */
export function point(id: string, variant?: string): string {
  const known = byId.get(id);
  if (known === undefined) throw new RangeError(`There is no point ${id}`);
  return `${known.id} ${known.text}${variant === undefined ? '' : ` (${variant})`}`;
}
