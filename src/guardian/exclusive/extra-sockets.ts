/**
 * At which unix sockets extra arguments have QEMU listen. Who listens second at a path takes it from the
 * first, who hears nothing of it.
 */
import { isOn, parseArguments } from "../../hypervisor/qemu/arguments.ts";

export interface ExtraSocket {
  /** `-qmp`. */
  readonly option: string;
  readonly path: string;
}

export function extraSockets(extraArgs: readonly string[]): ExtraSocket[] {
  return parseArguments(extraArgs).flatMap(({ head, option, properties }) => {
    const path = pathOf(option, head, properties);
    return path === undefined || path === "" ? [] : [{ option: `-${option}`, path }];
  });
}

function pathOf(option: string, head: string, properties: ReadonlyMap<string, string>): string | undefined {
  if (option === "spice") return isOn(properties.get("unix")) ? properties.get("addr") : undefined;
  if (option !== "vnc" && !isOn(properties.get("server"))) return undefined;
  if (option === "chardev") return head === "socket" ? properties.get("path") : undefined;
  return /^(?:mon:)?unix:(.*)$/s.exec(head)?.[1];
}
