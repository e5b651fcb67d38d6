/**
 * The RAM file of a VM that was taken over keeps its space, whatever its guest gives back: on a real QEMU,
 * whose balloon device is driven over qtest.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdtempSync, openSync, readSync, rmSync, statSync } from "node:fs";
import { type createConnection, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { RamRoom } from "../../src/guardian/primary/ram-room.ts";
import { QemuProcess } from "../../src/hypervisor/qemu/process.ts";
import { makeRamFile } from "../../src/memory/ram-file.ts";

const MIB = 1 << 20;
const RAM_BYTES = 16 * MIB;
/** Places in the guest's memory: the balloon's queue, and the list of pages that it is given. */
const QUEUE = MIB;
const LIST = QUEUE + MIB / 2;
/** Pages from 8 MiB on. */
const GIVEN = Array.from({ length: 512 }, (_, index) => 0x800 + index);

const le = (...words: readonly (readonly [value: number, bytes: number])[]) => {
  const all = Buffer.alloc(words.reduce((sum, [, bytes]) => sum + bytes, 0));
  let at = 0;
  for (const [value, bytes] of words) at = all.writeUIntLE(value, at, bytes);
  return `0x${all.toString("hex")}`;
};

async function machine(t: TestContext) {
  const directory = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "remus-room-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const ram = join(directory, "ram");
  const mapping = await makeRamFile(ram, RAM_BYTES);
  t.after(() => mapping.close());
  const monitors = QemuProcess.monitorPaths(directory);
  const path = join(directory, "qtest");
  const server: Server = createServer().listen(path);
  t.after(() => server.close());
  await once(server, "listening");
  const came = once(server, "connection");
  const qemu = await QemuProcess.start({
    command: [
      ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"],
      ...["-object", `memory-backend-file,id=ram,size=${RAM_BYTES},mem-path=${ram},share=on`],
      ...["-m", "16", "-machine", "pc,accel=tcg,memory-backend=ram"],
      ...["-chardev", `socket,id=qtest,path=${path}`, "-qtest", "chardev:qtest"],
      ...monitors.flatMap((monitor) => ["-qmp", `unix:${monitor},server=on,wait=off`]),
      ...["-device", "virtio-balloon-pci,addr=4", "-S"],
    ],
    runDirectory: directory,
    bindLifetimes: true,
  });
  t.after(async () => {
    qemu.kill();
    await qemu.exited;
  });
  const [socket] = (await came) as [ReturnType<typeof createConnection>];
  t.after(() => socket.destroy());
  const answers = createInterface(socket)[Symbol.asyncIterator]();
  const does = async (command: string): Promise<string> => {
    socket.write(`${command}\n`);
    for (;;) {
      const { value } = await answers.next();
      if (String(value).startsWith("IRQ")) continue;
      assert.match(String(value), /^OK/);
      return String(value);
    }
  };
  return { ram, does };
}

/** A legacy virtio driver of a few lines (virtio 1.1, 4.1.4.8 and 5.5): grows the balloon by `GIVEN`. */
async function grow(does: (command: string) => Promise<string>): Promise<void> {
  const config = async (register: number, value: number) => {
    await does(`outl 0xcf8 ${0x80000000 + (4 << 11) + register}`);
    await does(`outl 0xcfc ${value}`);
  };
  const io = 0xc000;
  await config(0x10, io);
  await config(0x04, 5);
  await does(`outb ${io + 18} 3`);
  await does(`outl ${io + 4} 0`);
  await does(`outw ${io + 14} 0`);
  const size = 128;
  await does(`outl ${io + 8} ${QUEUE / 4096}`);
  const entries = le(...GIVEN.map((page) => [page, 4] as const));
  await does(`write ${LIST} ${4 * GIVEN.length} ${entries}`);
  const descriptor = le([LIST, 6], [0, 2], [4 * GIVEN.length, 4], [0, 2], [0, 2]);
  await does(`write ${QUEUE} 16 ${descriptor}`);
  await does(`write ${QUEUE + 16 * size} 6 ${le([0, 2], [1, 2], [0, 2])}`);
  await does(`outb ${io + 18} 7`);
  await does(`outw ${io + 16} 0`);
}

const spaceOf = (path: string) => 512 * statSync(path).blocks;

function room(path: string) {
  const told: string[] = [];
  const publish = (event: unknown) => {
    const { about, raised, text } = event as { about: string; raised: boolean; text: string };
    told.push(`${about} ${raised ? "raised" : "lowered"}: ${text}`);
  };
  const log = { error() {}, warn() {}, info: (text: string) => void told.push(text) };
  return { room: new RamRoom({ log, control: { publish } } as never, path), told };
}

test("a balloon that grows makes holes in the RAM file; they are filled, and what the guest has stays", async (t) => {
  const { does, ram } = await machine(t);
  await does(`write ${3 * MIB} 4 0x01020304`);
  assert.equal(spaceOf(ram), RAM_BYTES);
  await grow(does);
  assert.equal(spaceOf(ram), RAM_BYTES - 4096 * GIVEN.length, "what QEMU does with a balloon");
  const one = room(ram);
  await one.room.look();
  await one.room.look();
  assert.equal(spaceOf(ram), RAM_BYTES);
  assert.equal(one.told.length, 1);
  assert.match(one.told[0]!, /has given back 2\.0 MiB/);
  const bytes = Buffer.alloc(4);
  const fd = openSync(ram, "r");
  readSync(fd, bytes, 0, 4, 3 * MIB);
  closeSync(fd);
  assert.deepEqual([...bytes], [1, 2, 3, 4]);
});

test("where there is no room for it any more, an alarm names file and bytes; when there is, all of it is reserved", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "remus-room-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=40m,mode=0700", "remus-test", directory]);
  t.after(() => {
    execFileSync("umount", ["-l", directory]);
    rmSync(directory, { recursive: true });
  });
  const ram = join(directory, "vm1.ram");
  (await makeRamFile(ram, 32 * MIB)).close();
  // As QEMU does it.
  execFileSync("fallocate", ["--punch-hole", "--offset", `${8 * MIB}`, "--length", `${20 * MIB}`, ram]);
  const filler = join(directory, "filler");
  execFileSync("fallocate", ["--length", `${20 * MIB}`, filler]);
  const one = room(ram);
  await one.room.look();
  assert.match(
    one.told.join("\n"),
    /^memory raised: the VM would die if.* \d{7,8} bytes of .*vm1\.ram cannot be reserved again: .*Make room in/,
  );
  rmSync(filler);
  await one.room.look();
  assert.equal(spaceOf(ram), 32 * MIB);
  assert.ok(
    one.told.some((text) => text.startsWith("memory lowered")),
    one.told.join("\n"),
  );
});
