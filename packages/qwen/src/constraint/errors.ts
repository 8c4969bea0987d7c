/** A schema, pattern or list of choices that no constraint can be made of; the message says where and what to do. */
export class ConstraintError extends Error {
  override readonly name = "ConstraintError";
}
