export { createVm, type CreateVmOptions, type SelectedVm } from './create-vm.ts';
export { Host, type HostCpu, type KvmBackend } from './host.ts';
export { remedyFor } from './remedy.ts';
export {
  TIERS,
  TIER_FACTS,
  isAtLeast,
  tiersOfType,
  type Tier,
  type TierFacts,
  type TierGuestMemfd,
  type TierRefusal,
  type TierVmType,
} from './tiers.ts';
export { tryTier, type TierAttempt, type TryTierOptions } from './try-tier.ts';
