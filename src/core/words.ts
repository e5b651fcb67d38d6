/**
 * The numbers of the protocol. Aliases rather than classes: they travel in messages and effects as they are.
 */

/**
 * One stretch of guest execution between two pauses, from 1. Checkpoint N is the state at the end of epoch N;
 * checkpoint 0 ends the first pass.
 */
export type EpochId = number;

/** Grows by one with every change of who may run the VM. */
export type Generation = number;

/** Milliseconds of a monotonic clock whose zero means nothing. */
export type Milliseconds = number;
