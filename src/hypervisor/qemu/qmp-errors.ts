/** How a command to QEMU fails. */

/** QEMU refused a command. `errorClass` is QEMU's own word for the kind. */
export class QmpError extends Error {
  readonly command: string;
  readonly errorClass: string;
  constructor(command: string, errorClass: string, description: string) {
    super(`QEMU refused ${command}: ${description}`);
    this.name = "QmpError";
    this.command = command;
    this.errorClass = errorClass;
  }
}

/** The connection is gone. */
export class QmpClosed extends Error {
  constructor(reason: string) {
    super(`the QMP connection is closed: ${reason}`);
    this.name = "QmpClosed";
  }
}
