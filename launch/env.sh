# shellcheck shell=bash
# Sourced by what starts training on GPUs. Every line says why it is here; none was measured by the
# authors on more than one GPU, so treat the flags as a start: drop one, look at the images/s.
#
# XLA refuses to start on a flag that it does not know: flags are for jax 0.10.

# Let the weights of the next layer travel while this one computes, instead of waiting for them
# (fsdp > 1), and the gradients of the last ones while the backward pass goes on (data > 1).
OPVSEG_XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true"

# Small collectives are joined up to this many bytes: a model of many small leaves otherwise sends
# hundreds of short messages, each of which waits for the network.
OPVSEG_XLA_FLAGS+=" --xla_gpu_all_gather_combine_threshold_bytes=134217728"
OPVSEG_XLA_FLAGS+=" --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728"
OPVSEG_XLA_FLAGS+=" --xla_gpu_all_reduce_combine_threshold_bytes=134217728"

# Flags of yours come last, and win.
export XLA_FLAGS="${OPVSEG_XLA_FLAGS} ${XLA_FLAGS:-}"

# JAX takes 75 % of each GPU at once. Nothing else runs on a training node: take more, in one
# piece, which also keeps the memory from being cut into small ones.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"

# A proxy can make the start of several processes wait for ever: they talk to each other directly.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

# Compiled programs are kept, so that a restart after a pre-emption begins at once.
export OPVSEG_CACHE="${OPVSEG_CACHE:-$HOME/.cache/opvseg_jax}"
