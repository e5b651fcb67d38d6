import type { ErrorCode } from "./requests.ts";

/** The caller's mistake, or a state in which the order cannot be carried out. `code` is for programs. */
export class OrderRefused extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string) {
    super(message);
    this.name = "OrderRefused";
    this.code = code;
  }
}
