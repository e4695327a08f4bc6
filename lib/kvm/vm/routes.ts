/** The entries of the interrupt routing table: where a GSI leads. *KVM_SET_GSI_ROUTING* */
import {
  bytes as checkBytes,
  oneOf,
  options as checkOptions,
  rangeError,
  typeError,
  u32,
  u64,
} from '../../arguments.ts';
import {
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQCHIP_IOAPIC,
  KVM_IRQCHIP_PIC_MASTER,
  KVM_IRQCHIP_PIC_SLAVE,
  KVM_MSI_VALID_DEVID,
  kvmIrqRouting,
  kvmIrqRoutingIrqchip,
  kvmIrqRoutingMsi,
} from '../../abi/index.ts';
import type { Input, kvmIrqRoutingEntry } from '../../abi/index.ts';

/** An interrupt controller of the in-kernel irqchip (KVM_IRQCHIP_*). */
export type IrqchipName = 'pic-master' | 'pic-slave' | 'ioapic';

/** @internal */
export const IRQCHIPS: Readonly<Record<IrqchipName, number>> = {
  'pic-master': KVM_IRQCHIP_PIC_MASTER,
  'pic-slave': KVM_IRQCHIP_PIC_SLAVE,
  ioapic: KVM_IRQCHIP_IOAPIC,
};
const IRQCHIP_NAMES = Object.keys(IRQCHIPS) as IrqchipName[];

/** A GSI that is a pin of an interrupt controller in the kernel. Two such routes of a GSI may go to PIC and IOAPIC. */
export interface IrqchipRoute {
  readonly gsi: number;
  readonly type: 'irqchip';
  readonly chip: IrqchipName;
  /** 0 to 7 of a PIC, 0 to 23 of the IOAPIC. */
  readonly pin: number;
}

/** A GSI that sends a message. */
export interface MsiRoute {
  readonly gsi: number;
  readonly type: 'msi';
  /** As in the device's MSI address register: `0xfee00000n` with the destination in bits 12 to 19. */
  readonly address: bigint;
  /** As in the device's MSI data register: the vector in bits 0 to 7. */
  readonly data: number;
  /** The id of the device, for interrupt remapping. x86 does not look at it. */
  readonly devid?: number;
}

/** A route of any other kind (KVM_IRQ_ROUTING_HV_SINT, _XEN_EVTCHN), as the kernel has it. */
export interface RawRoute {
  readonly gsi: number;
  /** KVM_IRQ_ROUTING_*. */
  readonly type: number;
  readonly flags?: number;
  /** The kind's struct: at most 32 bytes, zeros behind. */
  readonly u: Uint8Array;
}

/** Where an interrupt of a GSI goes (kvm_irq_routing_entry). */
export type GsiRoute = IrqchipRoute | MsiRoute | RawRoute;

/** KVM_MAX_IRQ_ROUTES, the limit of both GSIs and entries. */
const MAX_ROUTES = 4096;
const UNION_BYTES = 32;

/** @internal */
export function chipNumber(name: string, chip: unknown): number {
  return IRQCHIPS[oneOf(name, chip, IRQCHIP_NAMES)];
}

/** @internal Checks the routes, all that the kernel would answer with EINVAL included, and encodes the table. */
export function encodeRoutes(routes: readonly GsiRoute[]): Uint8Array {
  if (!Array.isArray(routes)) throw typeError('an array of routes', 'routes', routes);
  if (routes.length > MAX_ROUTES) throw rangeError(`at most ${MAX_ROUTES} routes`, 'routes', routes);
  const taken = new Map<number, Set<number>>();
  const entries = (routes as readonly GsiRoute[]).map((route, index) => {
    const entry = encodeRoute(route, `routes[${index}]`);
    refuseSecond(taken, entry, index);
    return entry;
  });
  return kvmIrqRouting.encode(entries);
}

/** A copy that later changes to what was given do not reach. @internal */
export function copyRoutes(routes: readonly GsiRoute[]): readonly GsiRoute[] {
  const copies = routes.map((route) => ('u' in route ? { ...route, u: route.u.slice() } : { ...route }));
  return Object.freeze(copies.map((route) => Object.freeze(route)));
}

function encodeRoute(route: GsiRoute, name: string): Input<typeof kvmIrqRoutingEntry> {
  if (typeof route !== 'object' || route === null) throw typeError('a route', name, route);
  const gsi = u32(`${name}.gsi`, route.gsi);
  if (gsi >= MAX_ROUTES) throw rangeError(`a GSI below ${MAX_ROUTES}`, `${name}.gsi`, gsi);
  const u = new Uint8Array(UNION_BYTES);
  if (route.type === 'irqchip') {
    checkOptions(name, route, ['gsi', 'type', 'chip', 'pin']);
    const irqchip = chipNumber(`${name}.chip`, route.chip);
    const pins = route.chip === 'ioapic' ? 24 : 8;
    if (u32(`${name}.pin`, route.pin) >= pins) throw rangeError(`a pin below ${pins}`, `${name}.pin`, route.pin);
    kvmIrqRoutingIrqchip.encode({ irqchip, pin: route.pin }, u);
    return { gsi, type: KVM_IRQ_ROUTING_IRQCHIP, flags: 0, u };
  }
  if (route.type === 'msi') {
    checkOptions(name, route, ['gsi', 'type', 'address', 'data', 'devid']);
    const address = u64(`${name}.address`, route.address);
    kvmIrqRoutingMsi.encode(
      {
        addressLo: Number(address & 0xffff_ffffn),
        addressHi: Number(address >> 32n),
        data: u32(`${name}.data`, route.data),
        devid: u32(`${name}.devid`, route.devid ?? 0),
      },
      u,
    );
    return { gsi, type: KVM_IRQ_ROUTING_MSI, flags: route.devid === undefined ? 0 : KVM_MSI_VALID_DEVID, u };
  }
  if (typeof route.type !== 'number') {
    throw typeError("'irqchip', 'msi' or a number", `${name}.type`, (route as RawRoute).type);
  }
  checkOptions(name, route, ['gsi', 'type', 'flags', 'u']);
  const type = u32(`${name}.type`, route.type);
  const given = checkBytes(`${name}.u`, route.u);
  if (given.byteLength > UNION_BYTES) throw rangeError(`at most ${UNION_BYTES} bytes`, `${name}.u`, given);
  u.set(given);
  return { gsi, type, flags: u32(`${name}.flags`, route.flags ?? 0), u };
}

/** A GSI may lead to several chips, each once; to a message only alone. */
function refuseSecond(taken: Map<number, Set<number>>, entry: Input<typeof kvmIrqRoutingEntry>, index: number): void {
  const chip = entry.type === KVM_IRQ_ROUTING_IRQCHIP ? kvmIrqRoutingIrqchip.decode(entry.u).irqchip : -1;
  const before = taken.get(entry.gsi);
  if (before === undefined) {
    taken.set(entry.gsi, new Set([chip]));
    return;
  }
  if (chip < 0 || before.has(-1) || before.has(chip)) {
    throw new RangeError(
      `Expected one route for GSI ${entry.gsi} (or one to each interrupt controller) but routes[` +
        `${index}] is a second one`,
    );
  }
  before.add(chip);
}
