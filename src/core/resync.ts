/**
 * How an old image at the backup is brought up to date, and from when on a record of changes counts. Pure.
 * The quick way is right only if every change that one of the two images has and the other lacks is on
 * record; whatever speaks against that means that all of it is compared (I7).
 */
import type { EpochId } from "./words.ts";

/** Every write after checkpoint `since` of `session` is in `bitmap`. */
export interface Baseline {
  readonly session: string;
  readonly since: EpochId;
  readonly bitmap: string;
}

/** What the backup says of its image. */
export interface OldImage {
  readonly state: "blank" | "unknown" | "replica" | "owner";
  /** The protection that it is about. */
  readonly session?: string;
  /** Of a replica: up to this checkpoint everything is on stable storage. */
  readonly durableEpoch?: EpochId;
  /** Of an owner: where it may differ from the session's last checkpoint. Left out where nobody knows. */
  readonly suspects?: readonly unknown[];
}

export type ResyncWay =
  /** Everything that is not zero is sent; or what differs, all of it being compared. */
  | { readonly plan: "blank" | "compare"; readonly why: string }
  /** What is in the bitmap is sent, and what differs in the image's suspects. */
  | { readonly plan: "records"; readonly bitmap: string; readonly why: string };

export function resyncWay(image: OldImage | undefined, baseline: Baseline | undefined): ResyncWay {
  const compare = (why: string): ResyncWay => ({ plan: "compare", why });
  if (image === undefined || image.state === "unknown")
    return compare("the backup knows nothing of its image");
  if (image.state === "blank") return { plan: "blank", why: "the backup's image is blank" };
  if (baseline === undefined) return compare("this host has no record of what has changed since");
  if (image.session !== baseline.session)
    return compare("the backup's image is from another protection than this host's record");
  const { bitmap, since } = baseline;
  if (image.state === "owner") {
    if (image.suspects === undefined) return compare("the old primary has no record of its last writes");
    const why = `everything since checkpoint ${since} is on record here, and the old primary's last writes there`;
    return { plan: "records", bitmap, why };
  }
  const { durableEpoch } = image;
  if ((durableEpoch ?? -1) < since)
    return compare(
      `the backup has checkpoint ${durableEpoch} safe, and the record begins at ${baseline.since}`,
    );
  const why = `the backup has checkpoint ${durableEpoch} safe, and everything since is on record here`;
  return { plan: "records", bitmap, why };
}

/**
 * Whether a record that was begun counts from now on, the backup having everything up to `epoch` of `session`
 * on stable storage.
 */
export function countsNow(begun: Baseline | undefined, session: string, epoch: EpochId): boolean {
  return begun !== undefined && begun.session === session && epoch >= begun.since;
}
