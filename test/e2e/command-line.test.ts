/**
 * Every kind of VM that Remus knows starts in both roles on a real QEMU, and its RAM is one block called
 * `pc.ram`: capture and standby find it by that name (I7).
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type QemuPlaces, qemuCommand } from "../../src/hypervisor/qemu/command-line.ts";
import { Qmp } from "../../src/hypervisor/qemu/qmp.ts";
import { ramKiB } from "../../src/hypervisor/qemu/tcg-aids.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";

function vm(machine: string, vcpus: number, nics: number): VmSpec {
  return {
    name: "a,b",
    uuid: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10",
    machine,
    cpu: "qemu64",
    vcpus,
    memoryMiB: 96,
    nics: Array.from({ length: nics }, (_, i) => ({ mac: `52:54:00:00:00:0${i + 1}`, tap: `tap${i}` })),
    disks: [],
    boot: { kind: "firmware" },
    extraArgs: [],
  };
}

/** Starts QEMU in a network namespace of its own that has the taps, and asks it what it is. */
async function started(spec: VmSpec, role: QemuPlaces["role"], withFile: boolean) {
  const dir = await mkdtemp(join(tmpdir(), "remus-command,line-"));
  const ramFile = join(dir, "ram");
  const command = qemuCommand(spec, {
    role,
    accelerator: "tcg",
    qmpSockets: [join(dir, "qmp1"), join(dir, "qmp2")],
    serialLog: join(dir, "serial"),
    ...(withFile ? { ramFile } : {}),
  });
  const taps = spec.nics.map(({ tap }) => `ip tuntap add ${tap} mode tap && `).join("");
  const qemu = spawn("unshare", ["-n", "sh", "-c", `${taps}exec "$@"`, "sh", ...command], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  try {
    const qmp = await Qmp.connect(join(dir, "qmp1"));
    const watchdog = await Qmp.connect(join(dir, "qmp2"));
    const hmp = (line: string) => qmp.execute<string>("human-monitor-command", { "command-line": line });
    const { status } = await watchdog.execute<{ status: string }>("query-status");
    const cpus = await qmp.execute<unknown[]>("query-cpus-fast");
    const blocks = await hmp("info ramblock");
    const network = await hmp("info network");
    const fileBytes = withFile ? (await stat(ramFile)).size : undefined;
    qmp.close();
    watchdog.close();
    return { status, cpus: cpus.length, blocks, network, fileBytes };
  } finally {
    const gone = once(qemu, "exit");
    if (qemu.exitCode === null && qemu.kill("SIGKILL")) await gone;
    await rm(dir, { recursive: true, force: true });
  }
}

for (const machine of ["pc", "q35"])
  for (const [vcpus, nics] of [
    [1, 1],
    [2, 2],
  ] as const)
    for (const [role, withFile] of [
      ["primary", false],
      ["primary", true],
      ["standby", true],
    ] as const) {
      const name = `${machine}, ${vcpus} vCPU, ${nics} NIC, ${role}${withFile ? ", RAM in a file" : ""}`;
      test(`QEMU starts with our command line and has one RAM block pc.ram: ${name}`, async () => {
        const spec = vm(machine, vcpus, nics);
        const seen = await started(spec, role, withFile);
        const bytes = ramKiB(spec.memoryMiB, "tcg") * 1024;
        assert.equal(seen.status, role === "primary" ? "running" : "inmigrate");
        assert.equal(seen.cpus, vcpus);
        const size = /^\s*pc\.ram\s+\S+ \S+\s+0x\w+\s+(0x\w+)/m.exec(seen.blocks)?.[1];
        assert.equal(Number(size), bytes, seen.blocks);
        assert.equal(seen.network.match(/type=tap/g)?.length, nics, seen.network);
        assert.doesNotMatch(seen.network, /vhost=on/);
        if (withFile) assert.equal(seen.fileBytes, bytes);
      });
    }
