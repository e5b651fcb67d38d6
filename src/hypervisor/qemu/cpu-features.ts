/**
 * Names of the feature bits that a CPU tells its guest of, as QEMU and Linux call them. For messages only.
 */

/**
 * From bit 0 on; a dash where a bit has no name. Sources: Intel SDM volume 2 (CPUID), QEMU's
 * target/i386/cpu.c.
 */
const NAMES: Readonly<Record<string, string>> = {
  "1 EDX":
    "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
  "1 ECX":
    "sse3 pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr pdcm - pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave osxsave avx f16c rdrand hypervisor",
  "7.0 EBX":
    "fsgsbase tsc-adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm - - mpx - avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
  "7.0 ECX":
    "- avx512vbmi umip pku ospke waitpkg avx512vbmi2 - gfni vaes vpclmulqdq avx512vnni avx512bitalg - avx512-vpopcntdq - la57 - - - - - rdpid - bus-lock-detect cldemote - movdiri movdir64b - sgxlc pks",
  "7.0 EDX":
    "- - avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect - md-clear - - - serialize - tsx-ldtrk - - arch-lbr - ibt amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
  "80000001 EDX":
    "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
  "80000001 ECX":
    "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb - - - - - - -",
  "d.1 EAX": "xsaveopt xsavec xgetbv1 xsaves xfd",
};

/** One register of the CPUID instruction's answer, as QEMU's property `feature-words` gives it. */
export interface FeatureWord {
  readonly "cpuid-input-eax": number;
  readonly "cpuid-input-ecx"?: number;
  readonly "cpuid-register": string;
  readonly features: number;
}

/** `7.0 EBX`: leaf and, where there is one, subleaf, in hexadecimal. */
export function registerName(word: FeatureWord): string {
  const leaf = word["cpuid-input-eax"].toString(16);
  const subleaf = word["cpuid-input-ecx"];
  return `${leaf}${subleaf === undefined ? "" : `.${subleaf.toString(16)}`} ${word["cpuid-register"]}`;
}

/** The features whose bits are in `bits`, a set of bits of that register. */
export function featureNames(register: string, bits: number): string[] {
  const names = (NAMES[register] ?? "").split(" ");
  return Array.from({ length: 32 }, (_, bit) => bit)
    .filter((bit) => Math.floor(bits / 2 ** bit) % 2 === 1)
    .map((bit) => ((names[bit] || "-") === "-" ? `bit ${bit} of CPUID ${register}` : names[bit]!));
}
