/**
 * What Redis had written when its disk's life ended: the commands in its append-only file. With `appendfsync
 * always` Redis answers a command only once it is in there and synced, so every answer that reached a client
 * must be found again (I4).
 *
 * Format (Redis 7): `appendonlydir/` holds a manifest that names a base file and those appended to since,
 * each a series of commands in the protocol of Redis. The base may be an RDB file instead, which is refused
 * here: the lab's guest makes none.
 */

/** Takes one file out of `appendonlydir`. */
export type TakeOut = (name: string) => Promise<Buffer>;

const MANIFEST = "appendonly.aof.manifest";

/** The value of a counter that was only ever incremented: so many increments of `key` are on the disk. */
export async function countIncrements(take: TakeOut, key: string): Promise<number> {
  let count = 0;
  for (const [name, ...words] of await appendedCommands(take))
    if (name!.toUpperCase() === "INCR" && words[0] === key) count++;
  return count;
}

/**
 * All commands, oldest first; one that is cut off at the very end was never answered, and is left out.
 * @throws on anything else amiss
 */
export async function appendedCommands(take: TakeOut): Promise<string[][]> {
  const files = parseManifest((await take(MANIFEST)).toString());
  const commands: string[][] = [];
  for (const [index, file] of files.entries()) {
    const bytes = await take(file);
    if (bytes.subarray(0, 5).toString("latin1") === "REDIS")
      throw new Error(`${file} is an RDB file: start Redis with --aof-use-rdb-preamble no`);
    const { end, ...read } = parseCommands(bytes, file);
    if (end < bytes.length && index < files.length - 1)
      throw new Error(`${file} is cut off at byte ${end}, and is not the last file`);
    commands.push(...read.commands);
  }
  return commands;
}

/** Lines are `file NAME seq N type b|i|h`; those of type h are history, not to be loaded. */
function parseManifest(text: string): string[] {
  return text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .flatMap((line) => {
      const match = /^file (\S+) seq \d+ type ([bih])\b/.exec(line);
      if (match === null) throw new Error(`${MANIFEST} has a line that is not understood: ${line}`);
      return match[2] === "h" ? [] : [match[1]!];
    });
}

/** `end`: the first byte that belongs to no whole command. */
function parseCommands(bytes: Buffer, file: string): { commands: string[][]; end: number } {
  const commands: string[][] = [];
  let at = 0;
  /** A number behind `mark`, with its line end; undefined when the file ends before. */
  const number = (mark: string): number | undefined => {
    const end = bytes.indexOf("\r\n", at);
    const line = bytes.toString("latin1", at, end < 0 ? Math.min(at + 16, bytes.length) : end);
    const right = end < 0 ? line === "" || line.startsWith(mark) : /^.\d+$/.test(line) && line[0] === mark;
    if (!right) throw new Error(`${file} holds no command at byte ${at}, but ${JSON.stringify(line)}`);
    if (end < 0) return undefined;
    at = end + 2;
    return Number(line.slice(1));
  };
  for (;;) {
    const end = at;
    const words: string[] = [];
    const count = number("*");
    if (count === undefined) return { commands, end };
    for (let word = 0; word < count; word++) {
      const length = number("$");
      if (length === undefined || at + length + 2 > bytes.length) return { commands, end };
      words.push(bytes.toString("utf8", at, at + length));
      at += length + 2;
    }
    commands.push(words);
  }
}
