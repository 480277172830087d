// The softmax output layer, in the form that does not overflow.

/** ln sum_k exp(z_k), with the largest logit taken out first. */
export function logSumExp(z) {
  const largest = Math.max(...z);
  if (!Number.isFinite(largest)) return largest;
  return largest + Math.log(z.reduce((sum, one) => sum + Math.exp(one - largest), 0));
}

/** ln p_j = z_j - ln sum_k exp(z_k) */
export function logSoftmax(z) {
  const total = logSumExp(z);
  return z.map((one) => one - total);
}

/** p_j = exp(z_j) / sum_k exp(z_k) */
export function softmax(z) {
  return logSoftmax(z).map(Math.exp);
}

/** The loss -ln p_target, in nats. */
export function crossEntropy(z, target) {
  return -logSoftmax(z)[target];
}

/** Its gradient at the logits: p - y. */
export function gradient(z, target) {
  return softmax(z).map((p, j) => p - (j === target ? 1 : 0));
}
