/**
 * What the backup has of the VM: checkpoints that come in, those that are whole and wait for their turn, and
 * the images they go into.
 */
import { InvariantBroken } from "../../core/transition.ts";
import type { EpochId } from "../../core/words.ts";
import type { BackupImages } from "../../memory/backup-images.ts";
import type { WholeCheckpoint } from "../../memory/checkpoint-buffer.ts";
import type { MemoryBounds } from "../../memory/memory-bounds.ts";
import type { BackupDisks } from "../disks/backup-disks.ts";
import { withFlash } from "../disks/flash-memory.ts";
import type { Told } from "../watch/alarm.ts";
import { CheckpointIntake } from "./checkpoint-intake.ts";
import type { CheckpointProof } from "./checkpoint-proof.ts";
import { CommitAgain } from "./commit-again.ts";
import { Committer } from "./committer.ts";

export interface HeldCheckpointsOptions {
  readonly images: BackupImages;
  readonly disks: BackupDisks;
  /** Whether the VM has disks of which this host has images. */
  readonly hasDisks: boolean;
  /** The file of the UEFI variable store, if there is one: what the guest's flash memory holds. */
  readonly flash?: string | undefined;
  readonly bounds: MemoryBounds;
  /**
   * A checkpoint is whole, and may be acknowledged. `acknowledge` and `commit` are of the last one that was
   * told.
   */
  readonly onWhole: (epoch: EpochId) => void;
  readonly onCommitted: (epoch: EpochId) => void;
  /** Shows that this host could go on with the VM, before checkpoint 0 is called whole. */
  readonly proof: Pick<CheckpointProof, "begin" | "prove" | "drop">;
  /**
   * This host could not go on with the VM: nothing was acknowledged then. Or the memory's image could not be
   * written.
   */
  readonly onFailed: (reason: string) => void;
  readonly told: Told;
  /** The primary is lost: what the images do not take is tried again. */
  readonly isOnlyCopy: () => boolean;
  /** So many bytes of epoch 0 are in the disks' images. */
  readonly onApplied: (totalBytes: number) => void;
}

export class HeldCheckpoints {
  readonly images: BackupImages;
  readonly intake: CheckpointIntake;
  private readonly options: HeldCheckpointsOptions;
  private readonly committer: Committer;
  private readonly commits: CommitAgain;
  /**
   * Whole in memory, and not acknowledged: those before them wait for their commit, and are enough of that
   * (I6).
   */
  private unacknowledged: WholeCheckpoint[] = [];
  private whole: WholeCheckpoint | undefined;
  /**
   * Checkpoint 0 is being tried. The images must not change meanwhile: nothing is acknowledged, so nothing is
   * committed.
   */
  private proving: WholeCheckpoint | undefined;
  private committed: EpochId = -1;
  private atWhole: ((epoch: EpochId) => void) | undefined;

  constructor(options: HeldCheckpointsOptions) {
    const { bounds, disks, hasDisks, images, onApplied } = options;
    this.options = options;
    this.images = images;
    this.commits = new CommitAgain({
      ...options.told,
      ready: () => disks.again(),
      commit: () => this.committer.again(),
      wanted: options.isOnlyCopy,
    });
    const onCommitted = (epoch: EpochId) => {
      this.commits.worked();
      disks.committed(epoch);
      this.committed = epoch;
      const { atWhole } = this;
      this.atWhole = undefined;
      atWhole?.(epoch);
      options.onCommitted(epoch);
      this.admit();
    };
    const onFailed = ({ message }: Error) => options.onFailed(`the memory's image: ${message}`);
    this.committer = new Committer(images, hasDisks ? disks : undefined, onCommitted, onFailed);
    this.intake = new CheckpointIntake({
      images,
      disks,
      room: {
        limitBytes: bounds.checkpointBytes,
        leftBytes: () => bounds.totalBytes - this.heldBytes,
      },
      onBegin: () => options.proof.begin(),
      onWhole: (checkpoint) => {
        this.unacknowledged.push(checkpoint);
        if (checkpoint.epoch === 0) void this.prove(checkpoint);
        else this.admit();
      },
      onApplied,
    });
  }

  /** Bytes of checkpoints that are acknowledged and not yet committed. */
  get waitingBytes(): number {
    return this.committer.waitingBytes;
  }

  /** Bytes of all checkpoints that are not in the images: on their way, whole, and acknowledged. */
  get heldBytes(): number {
    const whole = this.unacknowledged.reduce((sum, { bytes }) => sum + bytes, 0);
    return this.intake.bytes + whole + this.committer.waitingBytes;
  }

  /** What a standby loads: the newest committed checkpoint, without what lies in the RAM image. */
  composition() {
    const composition = this.images.composition();
    const side = withFlash(composition.side, this.options.flash);
    return { ...composition, side, device: this.committer.device };
  }

  /**
   * `look` is called once, at the next instant at which the images are at a whole checkpoint and nothing is
   * being changed, perhaps at once. The last one counts; undefined: none.
   */
  whenWhole(look: ((epoch: EpochId) => void) | undefined): void {
    this.atWhole = look;
    if (look === undefined || this.committer.busy || this.committed < 0) return;
    this.atWhole = undefined;
    look(this.committed);
  }

  /** To be called before `epoch` is acknowledged. @throws InvariantBroken if it is not in memory */
  assertWhole(epoch: EpochId): void {
    if (this.whole?.epoch !== epoch)
      throw new InvariantBroken("I1", `ack ${epoch} without that checkpoint in memory`);
  }

  /** Puts the checkpoint that was told last into the images, behind all before it. */
  commit(): void {
    this.committer.add(this.whole!);
  }

  /**
   * Puts the checkpoint in anew, after a while, that the images did not take, and those behind it. Nobody
   * else has the VM.
   */
  commitAgain(reason: string): void {
    this.commits.failed(reason);
  }

  /** Drops what is not acknowledged. */
  dropIncomplete(): void {
    this.intake.reset();
    this.unacknowledged = [];
    this.proving = undefined;
    this.options.proof.drop();
  }

  /** Drops everything; the images are left half-written. */
  forget(): void {
    this.dropIncomplete();
    this.commits.close();
    this.committer.forget();
    this.committed = -1;
  }

  private async prove(checkpoint: WholeCheckpoint): Promise<void> {
    const { onFailed, proof } = this.options;
    this.proving = checkpoint;
    const unfit = await proof
      .prove({ ...this.images.composition(), device: checkpoint.device })
      .then(() => undefined)
      .catch((error: Error) => error.message);
    if (this.proving !== checkpoint) return;
    this.proving = undefined;
    if (unfit === undefined) this.admit();
    else onFailed(unfit);
  }

  /** Acknowledges what is whole, as long as the commits keep up. */
  private admit(): void {
    if (this.proving !== undefined) return;
    const { bounds, onWhole } = this.options;
    while (this.unacknowledged.length > 0 && this.committer.waitingBytes <= bounds.commitBytes) {
      this.whole = this.unacknowledged.shift()!;
      onWhole(this.whole.epoch);
    }
  }
}
