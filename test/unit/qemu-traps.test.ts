/** Which QEMU version steps into which trap (facts in traps.ts), and how versions are read. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseQemuVersion, qemuTraps } from "../../src/hypervisor/qemu/traps.ts";

const plain = { dirtyRing: false, library: true };

function codes(version: string, accelerator: "kvm" | "tcg", options = plain): string[] {
  return qemuTraps(parseQemuVersion(version)!, accelerator, options).map(
    ({ code, severity }) => `${severity} ${code}`,
  );
}

for (const [version, found] of [
  ["6.2.0", ["warning qemu-old"]],
  ["7.2.22", []],
  ["8.2.2", []],
  ["9.2.4", []],
  ["10.0.0", ["error qemu-colo-broken"]],
  ["10.0.3", ["error qemu-colo-broken"]],
  ["10.0.6", ["error qemu-colo-broken"]],
  ["10.0.7", []],
  ["10.1.0", ["error qemu-colo-broken"]],
  ["10.1.4", ["error qemu-colo-broken"]],
  ["10.2.2", []],
  ["11.0.0", []],
  ["11.1.0", []],
] as const)
  test(`QEMU ${version}, with either accelerator: ${found.join(", ") || "no trap"}`, () => {
    assert.deepEqual(codes(version, "kvm"), found);
    assert.deepEqual(codes(version, "tcg"), found);
  });

test("a dirty ring is refused up to 10.2 and allowed from 11", () => {
  const ring = { dirtyRing: true, library: true };
  for (const version of ["7.2.22", "9.2.0", "10.2.2"])
    assert.deepEqual(codes(version, "kvm", ring), ["error qemu-dirty-ring"]);
  assert.deepEqual(codes("11.0.1", "kvm", ring), []);
});

test("software emulation without the library deadlocks and is refused, up to 10.2; from 11.0 on it needs none", () => {
  const unaided = { dirtyRing: false, library: false };
  for (const version of ["7.2.22", "10.0.13", "10.2.2"]) {
    assert.deepEqual(codes(version, "tcg", unaided), ["error qemu-tcg-unaided"]);
    assert.deepEqual(codes(version, "kvm", unaided), []);
  }
  assert.deepEqual(codes("11.0.0", "tcg", unaided), []);
});

test("a version is read from QMP's and from --version's form", () => {
  const debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
  assert.deepEqual(parseQemuVersion(debian), { major: 7, minor: 2, micro: 22 });
  assert.deepEqual(parseQemuVersion("10.0.7"), { major: 10, minor: 0, micro: 7 });
  assert.equal(parseQemuVersion("no version"), undefined);
});

test("a version with broken COLO is refused with the version and the package to upgrade to", () => {
  const message = (version: string) => qemuTraps(parseQemuVersion(version)!, "kvm", plain)[0]!.message;
  assert.match(
    message("10.0.6"),
    /QEMU 10\.0\.6 cannot do COLO.*10\.0\.7 or later.*Debian 13.*1:10\.0\.7\+ds/,
  );
  assert.match(message("10.1.2"), /Upgrade to 10\.2 or later.*pve-qemu-kvm 10\.2\.1/);
});
