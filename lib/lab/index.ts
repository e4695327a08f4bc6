/**
 * The lab: a Linux with every KVM feature that needs no confidential hardware, in an emulated machine, on any x86-64
 * Linux host. It needs no addon and no /dev/kvm.
 */
export { buildLab, type BuildLabOptions, type LabProgress } from './build.ts';
export { LabError, type LabErrorCode } from './error.ts';
export { findLab, labKernelHeaders, listLabs, type FindLabOptions, type Lab, type LabManifest } from './find.ts';
export { runInLab, type RunControl, type RunInLabOptions, type RunInLabResult } from './run.ts';
export { commandEnvironment, parseEnv, parseMemory, withNode } from './options.ts';
export { installCommand, missingPackages } from './packages.ts';
export { cleanLab, labStatus, type CleanLabOptions, type LabStatus } from './status.ts';
export { runInTerminal } from './terminal.ts';
