// Why there is no link, in a sentence.

import type { MessageOf, Refuse } from "../codec/replication.ts";

export type LinkErrorCode = "unreachable" | "timeout" | "refused" | "taken-over" | "closed" | "cannot-listen";

interface LinkErrorOptions extends ErrorOptions {
  readonly refuse?: Refuse;
  readonly takeover?: MessageOf<"takeover">;
}

/** The link could not be made. The sentence says who, where and what to do. */
export class LinkError extends Error {
  override readonly name = "LinkError";
  readonly code: LinkErrorCode;
  /** What the backup said, with code "refused". */
  readonly refuse: Refuse | undefined;
  /** With code "taken-over". */
  readonly takeover: MessageOf<"takeover"> | undefined;

  constructor(code: LinkErrorCode, message: string, options?: LinkErrorOptions) {
    super(message, options);
    this.code = code;
    this.refuse = options?.refuse;
    this.takeover = options?.takeover;
  }

  /** With code "taken-over": the generation as which the other side runs the VM. */
  get generation(): number | undefined {
    return this.takeover?.generation;
  }
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** "10.0.0.1:7000", "[fd00::1]:7000" */
export function at({
  host,
  port,
}: {
  readonly host: string | undefined;
  readonly port: number | undefined;
}): string {
  return host?.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
