// A small language for scenarios of the two cores. One line an event:
//
//   [@ms] event arguments → effects, separated by commas | phase
//
// The clock stands still until the next @ms. Reports of level "info" are left out, others read "warn" or
// "error". `→` alone expects no effects; `!! text` in place of effects expects an error whose message holds
// the text.

import assert from "node:assert/strict";
import {
  type BackupEffect,
  type BackupEvent,
  type BackupState,
  startBackup,
  stepBackup,
} from "../../src/core/backup.ts";
import type { PacerSettings } from "../../src/core/pacer.ts";
import { startPrimary, stepPrimary } from "../../src/core/primary.ts";
import type { PrimaryEffect, PrimaryEvent, PrimaryState } from "../../src/core/primary-protocol.ts";

export const SETTINGS: PacerSettings = { intervalMs: 25, maxInFlight: 4, maxInFlightBytes: 2 ** 20 };

/** Plays the lines through the primary's core and gives its last state. */
export function playPrimary(text: string, settings = SETTINGS, from = startPrimary(1)): PrimaryState {
  return play(text, from, primaryEvent, (state, event, now) => stepPrimary(state, event, now, settings));
}

export function playBackup(text: string, from = startBackup(1)): BackupState {
  return play(text, from, backupEvent, stepBackup);
}

interface Line {
  readonly text: string;
  readonly atMs: number | undefined;
  readonly event: string;
  readonly effects: string;
  readonly phase: string | undefined;
}

function play<S extends { readonly phase: string }, E>(
  text: string,
  from: S,
  eventOf: (words: string[]) => E,
  step: (state: S, event: E, now: number) => { state: S; effects: readonly (PrimaryEffect | BackupEffect)[] },
): S {
  let state = from;
  let now = 0;
  for (const line of text.split("\n").filter((one) => /\S/.test(one) && !/^\s*#/.test(one))) {
    const { atMs, event, effects, phase } = read(line);
    now = atMs ?? now;
    const failure = /^!!\s*(.*)$/.exec(effects)?.[1];
    if (failure !== undefined) {
      assert.throws(
        () => step(state, eventOf(event.split(/\s+/)), now),
        (error: Error) => error.message.includes(failure),
        `expected an error "${failure}" at: ${line.trim()}`,
      );
      continue;
    }
    const next = step(state, eventOf(event.split(/\s+/)), now);
    state = next.state;
    assert.equal(next.effects.map(shown).filter(Boolean).join(", "), effects, `at: ${line.trim()}`);
    if (phase !== undefined) assert.equal(state.phase, phase, `phase at: ${line.trim()}`);
  }
  return state;
}

function read(text: string): Line {
  const match = /^\s*(?:@(\d+)\s+)?(.*?)\s*→\s*([^|]*?)\s*(?:\|\s*(\S+)\s*)?$/.exec(text);
  assert.ok(match, `not a line of a scenario: ${text}`);
  const [, at, event, effects, phase] = match;
  return { text, atMs: at === undefined ? undefined : Number(at), event: event!, effects: effects!, phase };
}

function primaryEvent(words: string[]): PrimaryEvent {
  const [type, first, second] = words;
  switch (type) {
    case "captured":
      return { type, epoch: Number(first), bytes: second === undefined ? 4096 : Number(second) };
    case "acked":
    case "sent":
      return { type, epoch: Number(first) };
    case "link-lost":
    case "unable":
    case "capture-failed":
    case "output-failed":
    case "disk-failed":
      return { type, reason: "as the scenario says" };
    case "handover-refused":
      return {
        type,
        reason: "as the scenario says",
        stoodDown: first === "stood-down",
        generation: Number(second ?? 1),
      };
    case "takeover":
      return { type, generation: Number(first) };
    case "hold-asked":
      return { type, atEpoch: Number(first ?? 0) };
    case "verdict":
      return { type, granted: first === "granted", generation: Number(second) };
    default:
      return { type } as PrimaryEvent;
  }
}

function backupEvent(words: string[]): BackupEvent {
  const [type, first, second] = words;
  switch (type) {
    case "session-opened":
      return { type, generation: Number(first) };
    case "checkpoint-whole":
    case "committed":
    case "handover-asked":
      return { type, epoch: Number(first) };
    case "primary-lost":
    case "standby-failed":
    case "commit-failed":
      return { type, reason: "as the scenario says" };
    case "verdict":
      return { type, granted: first === "granted", generation: Number(second) };
    default:
      return { type } as BackupEvent;
  }
}

function shown(effect: PrimaryEffect | BackupEffect): string {
  if (effect.type === "report") return effect.level === "info" ? "" : effect.level;
  const words: (string | number)[] = [effect.type];
  if ("epoch" in effect) words.push(effect.epoch);
  if ("upTo" in effect) words.push(effect.upTo);
  if ("generation" in effect) words.push(effect.generation);
  if ("atMs" in effect) words.push(effect.atMs);
  if ("stoodDown" in effect && effect.stoodDown) words.push("stood-down");
  if ("hold" in effect && effect.hold) words.push("hold");
  return words.join(" ");
}
