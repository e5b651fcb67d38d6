/**
 * `npm run witness -- --listen ADDRESS:PORT --file PATH`: the witness's server, for a third machine that
 * neither host depends on.
 */
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { ClaimFile } from "./claim-file.ts";
import { type ServerOptions, WitnessServer } from "./server.ts";

const USAGE = `usage: npm run witness -- --listen ADDRESS:PORT --file PATH [options]

  --listen ADDRESS:PORT   an IPv6 address in brackets; port 0 is any that is free
  --file PATH             where claims are kept; not on a host that it decides about
  --create                make the file if it is missing: for the first start
  --token-file PATH       hosts must show the token in this file
  --cert PATH --key PATH  PEM files; with them it is HTTPS
`;

class WrongUse extends Error {}

/**
 * Exit statuses: 0 stopped by a signal, 1 the file cannot be written, 2 it could not be started, 64 wrong
 * use.
 */
async function main(args: readonly string[]): Promise<number> {
  let claims: ClaimFile | undefined;
  try {
    const { host, port, file, create, tokenFile, cert, key } = readArguments(args);
    const token = tokenFile === undefined ? undefined : (await readFile(tokenFile, "utf8")).trim();
    if (token === "") throw new Error(`${tokenFile} holds no token; write a long random text into it`);
    const tls = cert === undefined ? undefined : { cert: await readFile(cert), key: await readFile(key!) };
    claims = await ClaimFile.open(file, { create });
    if (claims.tornBytes > 0)
      say(`cut ${claims.tornBytes} bytes of a claim off ${file} whose writing a crash had cut off`);
    const ended = Promise.withResolvers<number>();
    const options: Omit<ServerOptions, "onFailure"> = {
      claims,
      host,
      port,
      ...(token === undefined ? {} : { token }),
      ...(tls === undefined ? {} : { tls }),
    };
    let said: string | undefined;
    const onFailure = (error: Error) => {
      const broken = claims!.isBroken;
      if (broken || said !== error.message)
        say(
          `${error.message}. ${broken ? "The witness ends; start it again when that is mended" : "Hosts get no claim until there is room again"}`,
        );
      said = error.message;
      if (broken) ended.resolve(1);
    };
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => ended.resolve(0));
    const server = await WitnessServer.start({ ...options, onFailure });
    if (token === undefined)
      say("no --token-file: whoever can reach this witness may decide which host runs a VM");
    process.stdout.write(`listening at ${server.url}\n`);
    const status = await ended.promise;
    await server.close();
    return status;
  } catch (error) {
    say((error as Error).message);
    if (!(error instanceof WrongUse)) return 2;
    process.stderr.write(USAGE);
    return 64;
  } finally {
    await claims?.close();
  }
}

function readArguments(args: readonly string[]) {
  const text = { type: "string" } as const;
  const options = {
    listen: text,
    file: text,
    create: { type: "boolean", default: false },
    "token-file": text,
    cert: text,
    key: text,
  } as const;
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>["values"];
  try {
    ({ values } = parseArgs({ args: [...args], options }));
  } catch (error) {
    throw new WrongUse((error as Error).message);
  }
  const { listen = "", file, create, "token-file": tokenFile, cert, key } = values;
  const [, host, digits] = /^(.+):(\d{1,5})$/.exec(listen) ?? [];
  if (host === undefined || Number(digits) > 65535) throw new WrongUse("--listen must be ADDRESS:PORT");
  if (file === undefined) throw new WrongUse("--file is missing");
  if ((cert === undefined) !== (key === undefined)) throw new WrongUse("--cert and --key go together");
  return { host: host.replace(/^\[(.*)\]$/, "$1"), port: Number(digits), file, create, tokenFile, cert, key };
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

process.exitCode = await main(process.argv.slice(2));
