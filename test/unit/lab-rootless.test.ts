// `npm start` by an ordinary user: the lab in a user namespace, or a sentence that helps.
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { asNobody as nobody, openNode, openPath, openProject } from "./as-nobody.ts";

/** Says where it got to, one word a line. With the word `wait` it lives until SIGTERM. */
const program = `
import { acquirePrivilege } from "${openPath("src/lab/rootless.ts")}";
import { createNetwork } from "${openPath("src/lab/namespaces.ts")}";
const privilege = await acquirePrivilege();
if (privilege.kind === "refused") console.log("refused " + privilege.why);
if (privilege.kind === "ranInside") console.log("ran inside");
if (privilege.kind !== "granted") process.exit(privilege.status ?? 3);
const network = await createNetwork({ lans: 1 });
const over = Promise.withResolvers();
const alive = setInterval(() => {}, 1000);
process.on("SIGTERM", over.resolve);
console.log("granted " + process.argv[2] + " " + (await network.links("a")).length);
if (process.argv[2] === "wait") await over.promise;
clearInterval(alive);
await network.destroy();
console.log("destroyed");
process.exitCode = 7;
`;

const asNobody = [...nobody, "--clear-groups"];

function reasonToSkip(): string | false {
  if (process.geteuid?.() !== 0) return "needs root, to become nobody";
  const space = spawnSync(asNobody[0]!, [...asNobody.slice(1), "unshare", "--user", "--net", "true"]);
  return space.status === 0 ? false : "this machine has no user namespaces for ordinary users";
}

const options = { skip: reasonToSkip(), timeout: 30_000 };

/** Runs the program as the user nobody, on a machine whose /dev/net/tun has the mode given. */
async function runAsNobody(t: TestContext, tunMode: string, word: string) {
  const folder = await mkdtemp("/tmp/remus-rootless-");
  t.after(() => rm(folder, { recursive: true, force: true }));
  await chmod(folder, 0o755);
  await writeFile(`${folder}/program.ts`, program);
  const ownTun =
    `${openProject} && mknod /mnt/tun c 10 200 && chmod ${tunMode} /mnt/tun && ` +
    'mount --bind /mnt/tun /dev/net/tun && exec "$@"';
  const command = [...asNobody, openNode(), `${folder}/program.ts`, word];
  const child: ChildProcess = spawn("unshare", ["--mount", "sh", "-c", ownTun, "sh", ...command], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  return { child, lines: createInterface({ input: child.stdout! })[Symbol.asyncIterator]() };
}

test(
  "an ordinary user gets a lab in a user namespace, with the same words and the same status",
  options,
  async (t) => {
    const { child, lines } = await runAsNobody(t, "0666", "word");
    const ended = once(child, "exit");
    // lo, br0, tap0, up0, repl
    assert.equal((await lines.next()).value, "granted word 6");
    assert.equal((await lines.next()).value, "destroyed");
    assert.equal((await lines.next()).value, "ran inside");
    assert.deepEqual(await ended, [7, null]);
  },
);

test("SIGTERM reaches the program inside, which cleans up", options, async (t) => {
  const { child, lines } = await runAsNobody(t, "0666", "wait");
  assert.equal((await lines.next()).value, "granted wait 6");
  child.kill("SIGTERM");
  assert.equal((await lines.next()).value, "destroyed");
  assert.equal((await lines.next()).value, "ran inside");
});

test("the program inside cleans up too when the one outside is killed", options, async (t) => {
  const { child, lines } = await runAsNobody(t, "0666", "wait");
  assert.equal((await lines.next()).value, "granted wait 6");
  child.kill("SIGKILL");
  assert.equal((await lines.next()).value, "destroyed");
  assert.equal((await lines.next()).done, true);
});

test("no right to make taps: the sentence names the device, its mode and the remedy", options, async (t) => {
  const { child, lines } = await runAsNobody(t, "0600", "word");
  const ended = once(child, "exit");
  const said: string = (await lines.next()).value ?? "";
  assert.match(
    said,
    /^refused Run this as root, or .*\/dev\/net\/tun has mode 0600.*chmod 0666 \/dev\/net\/tun/,
  );
  assert.deepEqual(await ended, [3, null]);
});
