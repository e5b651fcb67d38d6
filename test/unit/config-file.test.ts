/**
 * The configuration file: what is read, what is filled in, and that each mistake is named where it stands.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import {
  ConfigError,
  type GuardianConfig,
  inRole,
  parseConfig,
  readConfig,
} from "../../src/guardian/config/config.ts";
import type { VmSpec } from "../../src/hypervisor/vm-spec.ts";

const primary = `role: primary
vm:
  name: vm1
  uuid: 7F6B1C58-7c1f-4a7e-9d1b-0d6a3f1f2a10
  vcpus: 2
  memoryMiB: 256
  nics:
    - mac: 52:54:00:00:00:01
      tap: tap0
    - { mac: "52:54:00:00:00:02", tap: tap1 }
  boot: { kind: kernel, kernel: /k, initrd: /i }
runDirectory: /run/remus/vm1
replication: { peer: "10.0.0.2:7000" }
host: vmhost1
witness: { kind: server, url: "https://10.0.0.3:7331", tokenFile: /t }
`;

/** The mistakes in `text`, one a line. */
function mistakes(text: string): string[] {
  try {
    parseConfig(text, "f");
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.message.split("\n");
  }
  return [];
}

/** `primary` with one line changed. Fails when there is no such line. */
function changed(from: string, to: string): string {
  assert.ok(primary.includes(from), from);
  return primary.replace(from, to);
}

test("a good file is read, and what is left out has its default", () => {
  const config = parseConfig(primary, "f");
  const vm: VmSpec = config.vm;
  assert.deepEqual(vm, {
    name: "vm1",
    uuid: "7f6b1c58-7c1f-4a7e-9d1b-0d6a3f1f2a10",
    machine: "pc",
    cpu: "qemu64",
    vcpus: 2,
    memoryMiB: 256,
    nics: [
      { mac: "52:54:00:00:00:01", tap: "tap0", virtio: "standard" },
      { mac: "52:54:00:00:00:02", tap: "tap1", virtio: "standard" },
    ],
    disks: [],
    boot: { kind: "kernel", kernel: "/k", initrd: "/i", append: "" },
    extraArgs: [],
  });
  const { vm: _, ...rest } = config;
  assert.deepEqual(rest, {
    role: "primary",
    runDirectory: "/run/remus/vm1",
    imageDirectory: "/dev/shm/remus",
    cacheDirectory: "/var/cache/remus",
    stateDirectory: "/var/lib/remus",
    replication: { peer: [{ host: "10.0.0.2", port: 7000 }] },
    timing: {
      intervalMs: 25,
      detectionMs: 200,
      heartbeatMs: 25,
      witnessMs: 30_000,
      retryMs: 2000,
      hungMs: 5000,
      shutdownMs: 60000,
    },
    limits: { stagingMiB: 64, maxInFlight: 8, heldMiB: 64, diskMiB: 64, commitMiB: 256 },
    host: "vmhost1",
    witness: { kind: "server", url: "https://10.0.0.3:7331", tokenFile: "/t" },
    protect: "on-order",
    accelerator: "auto",
    lab: { bindLifetimes: true },
  } satisfies Omit<Extract<GuardianConfig, { role: "primary" }>, "vm">);
});

test("JSON is read too, and a backup listens", () => {
  const text = changed("role: primary", "role: backup").replace(
    '{ peer: "10.0.0.2:7000" }',
    '{ listen: "[fd00::2]:7000" }',
  );
  const config = parseConfig(text, "f");
  assert.ok(config.role === "backup");
  assert.deepEqual(config.replication, { listen: [{ host: "fd00::2", port: 7000 }] });
  const written = { ...config, replication: { listen: "[fd00::2]:7000" } };
  assert.deepEqual(parseConfig(JSON.stringify(written), "f"), config);
});

test("several paths are lists of addresses, in the same order on both sides", () => {
  const lists = '{ peer: ["10.0.0.2:7000", "[fd00::2]:7001"], listen: ["10.0.0.1:7000", "[fd00::1]:7001"] }';
  const config = parseConfig(changed('{ peer: "10.0.0.2:7000" }', lists), "f");
  assert.deepEqual(config.replication, {
    peer: [
      { host: "10.0.0.2", port: 7000 },
      { host: "fd00::2", port: 7001 },
    ],
    listen: [
      { host: "10.0.0.1", port: 7000 },
      { host: "fd00::1", port: 7001 },
    ],
  });
  assert.deepEqual(inRole("backup", config)?.replication, config.replication);
});

for (const [what, replication, expected] of [
  ["no address in a list", "{ peer: [] }", "f:13:16: replication.peer must have 1 to 8 addresses"],
  [
    "too many addresses",
    `{ peer: [${Array.from({ length: 9 }, (_, i) => `"10.0.0.${i + 2}:7000"`).join(", ")}] }`,
    "f:13:16: replication.peer must have 1 to 8 addresses",
  ],
  [
    "a name in a list",
    '{ peer: ["10.0.0.2:7000", "hostb:7000"] }',
    "f:13:40: replication.peer[1] must be ADDR:PORT",
  ],
  [
    "an address twice",
    '{ peer: ["10.0.0.2:7000", "10.0.0.2:7000"] }',
    "f:13:40: replication.peer[1] is also number 1 of the list; each path needs addresses of its own",
  ],
  ["a list of a list", '{ peer: [["10.0.0.2:7000"]] }', "f:13:23: replication.peer[0] must be ADDR:PORT"],
  [
    "lists of different lengths",
    '{ peer: ["10.0.0.2:7000", "10.0.1.2:7000"], listen: "10.0.0.1:7000" }',
    "f:13:58: replication.listen must have as many addresses as peer: peer has 2 addresses and listen one address.",
  ],
  ["no address at all", '{ listen: "10.0.0.1:7000" }', "f:13:1: replication.peer is missing; it must be"],
] as const)
  test(`refused, with its place: ${what}`, () => {
    const found = mistakes(changed('{ peer: "10.0.0.2:7000" }', replication));
    assert.ok(found[0]?.startsWith(expected), found.join("\n"));
  });

test("disks have defaults, except for their image and format", () => {
  const text = changed("  boot:", "  disks:\n    - { image: /d, format: raw }\n  boot:");
  const disks: VmSpec["disks"] = parseConfig(text, "f").vm.disks;
  assert.deepEqual(disks, [
    {
      image: "/d",
      format: "raw",
      bus: "virtio-blk",
      virtio: "standard",
      storage: "replicated",
      durability: "strict",
    },
  ]);
});

for (const [what, disks, expected] of [
  ["no format", "{ image: /d }", "f:11:11: vm.disks[0].format is missing"],
  [
    "a format that would be guessed",
    "{ image: /d, format: auto }",
    'f:11:24: vm.disks[0].format must be "raw" or "qcow2"',
  ],
  ["no image", "{ format: raw }", "f:11:11: vm.disks[0].image is missing; it must be an absolute path"],
  ["a relative image", "{ image: d, format: raw }", "f:11:13: vm.disks[0].image must be an absolute path"],
  [
    "another bus",
    "{ image: /d, format: raw, bus: ide }",
    'f:11:37: vm.disks[0].bus must be "virtio-blk" or "virtio-scsi"',
  ],
  [
    "another storage",
    "{ image: /d, format: raw, storage: local }",
    'f:11:37: vm.disks[0].storage must be "replicated" or "shared"',
  ],
  [
    "another durability",
    "{ image: /d, format: raw, durability: none }",
    'f:11:37: vm.disks[0].durability must be "strict" or "replicated"',
  ],
  [
    "an image twice",
    "{ image: /d, format: raw }, { image: /d, format: raw }",
    "f:11:41: vm.disks[1].image is also that of disks[0]; give each disk an image of its own",
  ],
  [
    "nine disks",
    Array.from({ length: 9 }, (_, i) => `{ image: /d${i}, format: raw }`).join(", "),
    "f:11:3: vm.disks must have at most 8 disks",
  ],
] as const)
  test(`refused, with its place: ${what}`, () => {
    const found = mistakes(changed("  boot:", `  disks: [${disks}]\n  boot:`));
    assert.ok(found[0]?.startsWith(expected), found.join("\n"));
  });

for (const [field, lines, least, most] of [
  ["limits.diskMiB", "limits: { diskMiB: N }", 8, 1 << 20],
  ["limits.commitMiB", "limits: { commitMiB: N }", 1, 1 << 20],
  ["timing.syncMiBps", "timing: { syncMiBps: N }", 1, 1 << 20],
] as const)
  test(`${field} is a whole number from ${least} to ${most}`, () => {
    const found = (value: number) => mistakes(`${primary}${lines.replace("N", String(value))}\n`);
    for (const good of [least, most]) assert.deepEqual(found(good), []);
    for (const bad of [least - 1, most + 1, least + 0.5])
      assert.match(found(bad)[0] ?? "", new RegExp(`${field} must be a whole number, ${least} to ${most}$`));
  });

test("a guardian with both addresses can be in either role", () => {
  const both = '{ peer: "10.0.0.2:7000", listen: "10.0.0.1:7000" }';
  const config = parseConfig(changed('{ peer: "10.0.0.2:7000" }', both), "f");
  const other = inRole("backup", config);
  assert.deepEqual(other, { ...config, role: "backup" });
  assert.deepEqual(inRole("primary", other!), config);
});

test("a primary without an address of its own never becomes a backup; a backup without the other host's can run the VM, and has nobody to protect it towards", () => {
  const config = parseConfig(primary, "f");
  assert.equal(inRole("primary", config), config);
  assert.equal(inRole("backup", config), undefined);
  const backup = parseConfig(changed("role: primary", "role: backup").replace("peer:", "listen:"), "f");
  const survivor = inRole("primary", backup);
  assert.deepEqual(survivor, {
    ...backup,
    role: "primary",
    replication: { listen: backup.replication.listen, peer: [] },
  });
  assert.deepEqual(inRole("backup", survivor!)?.replication.listen, backup.replication.listen);
});

test("each role needs its address, whether it has the other one or not", () => {
  const [missing] = mistakes(changed("peer:", "listen:"));
  assert.match(missing ?? "", /^f:13:1\d?: replication\.peer is missing; it must be ADDR:PORT/);
  const [noListen] = mistakes(changed("role: primary", "role: backup"));
  assert.match(noListen ?? "", /replication\.listen is missing; it must be ADDR:PORT/);
});

for (const [what, from, to, expected] of [
  ["an unknown field", "  vcpus: 2", "  vcpus: 2\n  colour: red", "f:6:3: vm.colour is not a known field"],
  ["a missing field", "  vcpus: 2\n", "", "f:2:1: vm.vcpus is missing"],
  ["a text for a number", "vcpus: 2", "vcpus: two", "f:5:3: vm.vcpus must be a whole number, 1 to 255"],
  ["too little memory", "memoryMiB: 256", "memoryMiB: 63", "f:6:3: vm.memoryMiB must be a whole number, 64"],
  ["a fraction", "memoryMiB: 256", "memoryMiB: 64.5", "f:6:3: vm.memoryMiB must be a whole number"],
  [
    "a multicast MAC",
    "52:54:00:00:00:01",
    "53:54:00:00:00:01",
    "f:8:7: vm.nics[0].mac is a multicast address",
  ],
  [
    "a MAC that is none",
    "52:54:00:00:00:01",
    "52:54:00:00:01",
    "f:8:7: vm.nics[0].mac must be a MAC address",
  ],
  ["a zero MAC", "52:54:00:00:00:01", "00:00:00:00:00:00", "f:8:7: vm.nics[0].mac must not be all zeros"],
  ["a MAC twice", "52:54:00:00:00:01", "52:54:00:00:00:02", "f:10:9: vm.nics[1].mac is also that of nics[0]"],
  ["a tap twice", "tap: tap0", "tap: tap1", "f:10:35: vm.nics[1].tap is also that of nics[0]"],
  [
    "a long tap name",
    "tap: tap0",
    "tap: tap0123456789abc",
    "f:9:7: vm.nics[0].tap must be the name of a tap",
  ],
  ["a bad UUID", "7F6B1C58-", "", "f:4:3: vm.uuid must be a UUID"],
  [
    "an unknown kind of boot",
    "kind: kernel",
    "kind: disk",
    'f:11:11: vm.boot.kind must be "kernel" or "firmware"',
  ],
  ["a relative path", "/run/remus/vm1", "run", "f:12:1: runDirectory must be an absolute path"],
  [
    "a path too long for sockets",
    "/run/remus/vm1",
    `/${"x".repeat(80)}`,
    "f:12:1: runDirectory must be at most 80",
  ],
  [
    "a cache from which no library can be loaded",
    "host:",
    "cacheDirectory: /var/my cache\nhost:",
    "f:14:1: cacheDirectory must have no space",
  ],
  ["a port that is none", "10.0.0.2:7000", "10.0.0.2:70000", "f:13:16: replication.peer must be ADDR:PORT"],
  ["a name for an address", "10.0.0.2:7000", "hostb:7000", "f:13:16: replication.peer must be ADDR:PORT"],
  ["a host's name with a blank", "vmhost1", "vm host 1", "f:14:1: host must be 1 to 253 printable ASCII"],
  ["the wrong role", "role: primary", "role: both", 'f:1:1: role must be "primary" or "backup"'],
  ["a key twice", "  vcpus: 2", "  vcpus: 2\n  vcpus: 3", "f:6:3: not good YAML"],
  ["no YAML", "role: primary", "role: [", "f:2:1: not good YAML"],
  ["an alias of nothing", "role: primary", "role: *other", "f: not good YAML: Unresolved alias"],
] as const)
  test(`refused, with its place: ${what}`, () => {
    const found = mistakes(changed(from, to));
    assert.ok(found[0]?.startsWith(expected), found.join("\n"));
  });

for (const [what, from, to, expected] of [
  [
    "a topology that gives other processors",
    "  vcpus: 2",
    "  vcpus: 2\n  topology: { sockets: 1, cores: 3, threads: 1 }",
    "f:6:3: vm.topology must give vcpus (2) when sockets, cores and threads are multiplied; they give 3",
  ],
  [
    "firmware without its variables",
    "  vcpus: 2",
    "  vcpus: 2\n  uefi: { code: /c }",
    "f:6:3: vm.uefi.variables is missing",
  ],
  [
    "three CD drives",
    "  vcpus: 2",
    "  vcpus: 2\n  cdroms: [{}, {}, {}]",
    "f:6:3: vm.cdroms must have at most 2 drives",
  ],
  [
    "a serial port without a place",
    "  vcpus: 2",
    "  vcpus: 2\n  serial: stdio",
    "f:6:3: vm.serial must be { file: PATH } or { socket: PATH }",
  ],
  [
    "a socket with a long path",
    "  vcpus: 2",
    `  vcpus: 2\n  agent: /${"x".repeat(100)}`,
    "f:6:3: vm.agent must be at most 100",
  ],
] as const)
  test(`refused, with its place: ${what}`, () => {
    const found = mistakes(changed(from, to));
    assert.ok(found[0]?.startsWith(expected), found.join("\n"));
  });

test("the store of UEFI variables is a replicated disk, behind the others", () => {
  const { vm } = parseConfig(
    changed("  vcpus: 2", "  vcpus: 2\n  uefi: { code: /c.fd, variables: /v.fd }"),
    "f",
  );
  assert.deepEqual(vm.uefi, { code: "/c.fd" });
  const { bus, durability, format, image, storage } = vm.disks.at(-1)!;
  assert.deepEqual(
    { bus, durability, format, image, storage },
    { bus: "pflash", durability: "strict", format: "raw", image: "/v.fd", storage: "replicated" },
  );
});

const WITNESS = '{ kind: server, url: "https://10.0.0.3:7331", tokenFile: /t }';

test("each kind of witness is read as it is written", () => {
  for (const witness of [
    { kind: "etcd", endpoints: ["https://10.0.0.3:2379", "https://[fd00::4]:2379"], prefix: "ha/" },
    { kind: "etcd", endpoints: ["https://e"], user: "u", passwordFile: "/p", caFile: "/c" },
    { kind: "etcd", endpoints: ["https://e:1"], certFile: "/c", keyFile: "/k" },
    { kind: "server", url: "http://10.0.0.3:7331" },
    { kind: "lock-file", directory: "/shared" },
    { kind: "none" },
  ])
    assert.deepEqual(parseConfig(changed(WITNESS, JSON.stringify(witness)), "f").witness, witness);
});

for (const [what, witness, expected] of [
  ["none named", undefined, "f:1:1: witness is missing; it must be a map with a kind, "],
  ["the old word", "assume-no-partition", "f:15:1: witness must be a map with a kind, "],
  ["no kind", "{ url: https://e }", 'f:15:1: witness.kind is missing; it must be "etcd"'],
  ["another kind", "{ kind: zookeeper }", 'f:15:12: witness.kind must be "etcd"'],
  ["no endpoints", "{ kind: etcd, endpoints: [] }", "f:15:24: witness.endpoints must have one URL at least"],
  ["no URL", "{ kind: etcd, endpoints: [10.0.0.3] }", "f:15:36: witness.endpoints[0] must be the client URL"],
  ["a URL with a path", "{ kind: server, url: http://e/v1 }", "f:15:26: witness.url must be the URL of"],
  [
    "a URL with a password",
    "{ kind: server, url: https://u:p@e }",
    "f:15:26: witness.url must be the URL of",
  ],
  [
    "a certificate without its key",
    "{ kind: server, url: https://e, certFile: /c }",
    "f:15:1: witness.keyFile is missing; it must be there when certFile is",
  ],
  [
    "a user without a password",
    "{ kind: etcd, endpoints: [https://e], user: u }",
    "f:15:1: witness.passwordFile is missing; it must be there when user is",
  ],
  [
    "certificates for a line without TLS",
    "{ kind: server, url: http://e, caFile: /c }",
    "f:15:41: witness.caFile is for https:, and the witness's address begins with http:",
  ],
  ["a field of another kind", "{ kind: none, url: https://e }", "f:15:24: witness.url is not a known field"],
] as const)
  test(`a witness is refused, with its place: ${what}`, () => {
    const found = mistakes(
      witness === undefined ? changed(`witness: ${WITNESS}\n`, "") : changed(WITNESS, witness),
    );
    assert.ok(found[0]?.startsWith(expected), found.join("\n"));
  });

test("a heartbeat needs three beats within the detection time", () => {
  const timing = (heartbeatMs: number) =>
    `${primary}timing: { detectionMs: 90, heartbeatMs: ${heartbeatMs} }\n`;
  assert.deepEqual(mistakes(timing(30)), []);
  assert.deepEqual(mistakes(timing(31)), [
    "f:16:28: timing.heartbeatMs must be at most a third of detectionMs (90); make it 30 or less",
  ]);
});

test("all mistakes are told at once, in the order of the file", () => {
  const found = mistakes(changed("vcpus: 2", "vcpus: 0").replace("runDirectory: /run", "runDirectory: run"));
  assert.deepEqual(
    found.map((line) => line.split(" ")[1]),
    ["vm.vcpus", "runDirectory"],
  );
});

test("a file that is not a map, and one that is not there, are refused", async () => {
  for (const text of ["", "- a", "7"])
    assert.deepEqual(mistakes(text), ["f:1:1: the configuration must be a map of fields"]);
  await assert.rejects(readConfig("/nowhere/vm1.yaml"), {
    name: "ConfigError",
    message: /^\/nowhere\/vm1\.yaml: /,
  });
});

test("any document is read or refused with a ConfigError, never another way", () => {
  fc.assert(fc.property(fc.json(), (text) => void mistakes(text)));
  fc.assert(
    fc.property(fc.nat(primary.length), fc.nat(40), fc.string(), (from, length, put) => {
      mistakes(primary.slice(0, from) + put + primary.slice(from + length));
    }),
  );
});

test("a file that is not in UTF-8 is refused, for a path in it would be another one", async (t) => {
  const path = join(mkdtempSync(join(tmpdir(), "remus-config-")), "vm.yaml");
  t.after(() => rmSync(dirname(path), { recursive: true, force: true }));
  writeFileSync(path, Buffer.from(changed("kernel: /k", "kernel: /k\u00e4"), "latin1"));
  await assert.rejects(readConfig(path), /is not text in UTF-8; convert it/);
  writeFileSync(path, `\ufeff${changed("kernel: /k", "kernel: /k\u00e4").replaceAll("\n", "\r\n")}`);
  const { boot } = (await readConfig(path)).vm;
  assert.equal(boot.kind === "kernel" && boot.kernel, "/k\u00e4");
});

test("the other host is never this one, nor all of them", () => {
  for (const [replication, what] of [
    ['{ peer: "0.0.0.0:7000" }', /replication\.peer\[0\] is no host's address/],
    ['{ peer: "[::]:7000" }', /replication\.peer\[0\] is no host's address/],
    ['{ peer: "10.0.0.1:7000", listen: "10.0.0.1:7000" }', /peer\[0\] is also an address of listen/],
  ] as const)
    assert.match(mistakes(changed('{ peer: "10.0.0.2:7000" }', replication)).join(), what);
  const near = '{ peer: "10.0.0.1:7000", listen: "10.0.0.1:7001" }';
  assert.deepEqual(mistakes(changed('{ peer: "10.0.0.2:7000" }', near)), []);
});

test("two documents in one file are named as that", () => {
  assert.match(mistakes(`${primary}---\n${primary}`).join(), /one file is of one VM/);
});
