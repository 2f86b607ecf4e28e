// SPDX-License-Identifier: Apache-2.0
// The one place that knows which oneDNN it is: 2.6 (Debian 12) or 3.x (Ubuntu 24.04).
//
// 3.x has no operation descriptors: a primitive descriptor is made from the same arguments at once,
// with a destination and a dilation where 2.x inferred them; and memory descriptors are opaque.
// Every function here throws dnnl::error if oneDNN has no such primitive, unless `allow_empty`,
// which returns an empty descriptor instead. A bias of MemoryDesc() means none.
#pragma once

#include <oneapi/dnnl/dnnl_version.h>

#include <oneapi/dnnl/dnnl.hpp>

#include "nn/cpu/dnnl_util.h"

namespace ens::cpu {

// A convolution's geometry, each [height, width]. `dilates` counts the gaps: 0 is a dense kernel.
struct ConvDims {
  dnnl::memory::dims strides, dilates, left, right;
};

namespace detail {

// For primitives whose arguments are the same in both versions, up to where they go.
template <typename Primitive, typename... Args>
typename Primitive::primitive_desc make_pd(const dnnl::primitive_attr& attr, bool allow_empty,
                                           const Args&... args) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), args..., attr, allow_empty};
#else
  return {typename Primitive::desc(args...), attr, engine(), allow_empty};
#endif
}

// As make_pd, for a backward pass, which oneDNN makes from its forward pass.
template <typename Primitive, typename Hint, typename... Args>
typename Primitive::primitive_desc make_backward_pd(const dnnl::primitive_attr& attr,
                                                    const Hint& hint, const Args&... args) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), args..., hint, attr};
#else
  return {typename Primitive::desc(args...), attr, engine(), hint};
#endif
}

}  // namespace detail

inline dnnl::convolution_forward::primitive_desc conv_forward_pd(
    dnnl::prop_kind kind, const MemoryDesc& src, const MemoryDesc& weight, const MemoryDesc& bias,
    const MemoryDesc& dst, const ConvDims& d, const dnnl::primitive_attr& attr,
    bool allow_empty = false) {
  return detail::make_pd<dnnl::convolution_forward>(
      attr, allow_empty, kind, dnnl::algorithm::convolution_direct, src, weight, bias, dst,
      d.strides, d.dilates, d.left, d.right);
}

inline dnnl::convolution_backward_data::primitive_desc conv_backward_data_pd(
    const MemoryDesc& diff_src, const MemoryDesc& weight, const MemoryDesc& diff_dst,
    const ConvDims& d, const dnnl::primitive_attr& attr,
    const dnnl::convolution_forward::primitive_desc& forward) {
  return detail::make_backward_pd<dnnl::convolution_backward_data>(
      attr, forward, dnnl::algorithm::convolution_direct, diff_src, weight, diff_dst, d.strides,
      d.dilates, d.left, d.right);
}

inline dnnl::convolution_backward_weights::primitive_desc conv_backward_weights_pd(
    const MemoryDesc& src, const MemoryDesc& diff_weight, const MemoryDesc& diff_dst,
    const ConvDims& d, const dnnl::primitive_attr& attr,
    const dnnl::convolution_forward::primitive_desc& forward) {
  return detail::make_backward_pd<dnnl::convolution_backward_weights>(
      attr, forward, dnnl::algorithm::convolution_direct, src, diff_weight, diff_dst, d.strides,
      d.dilates, d.left, d.right);
}

inline dnnl::inner_product_forward::primitive_desc inner_product_pd(
    const MemoryDesc& src, const MemoryDesc& weight, const MemoryDesc& bias, const MemoryDesc& dst,
    const dnnl::primitive_attr& attr) {
  return detail::make_pd<dnnl::inner_product_forward>(
      attr, false, dnnl::prop_kind::forward_inference, src, weight, bias, dst);
}

inline dnnl::matmul::primitive_desc matmul_pd(const MemoryDesc& a, const MemoryDesc& b,
                                              const MemoryDesc& c,
                                              const dnnl::primitive_attr& attr) {
  return detail::make_pd<dnnl::matmul>(attr, false, a, b, c);
}

inline dnnl::binary::primitive_desc binary_pd(dnnl::algorithm algorithm, const MemoryDesc& a,
                                              const MemoryDesc& b, const MemoryDesc& dst,
                                              const dnnl::primitive_attr& attr) {
  return detail::make_pd<dnnl::binary>(attr, false, algorithm, a, b, dst);
}

// From `data` to the same format.
inline dnnl::eltwise_forward::primitive_desc eltwise_pd(dnnl::algorithm algorithm,
                                                        const MemoryDesc& data, float alpha,
                                                        float beta,
                                                        const dnnl::primitive_attr& attr) {
  const auto kind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), kind, algorithm, data, data, alpha, beta, attr};
#else
  return {dnnl::eltwise_forward::desc(kind, algorithm, data, alpha, beta), attr, engine()};
#endif
}

// From `data` to the same format.
inline dnnl::batch_normalization_forward::primitive_desc batch_norm_inference_pd(
    const MemoryDesc& data, float epsilon, dnnl::normalization_flags flags,
    const dnnl::primitive_attr& attr) {
  const auto kind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), kind, data, data, epsilon, flags, attr};
#else
  return {dnnl::batch_normalization_forward::desc(kind, data, epsilon, flags), attr, engine()};
#endif
}

// `padding` on all sides.
inline dnnl::pooling_forward::primitive_desc pooling_pd(
    dnnl::algorithm algorithm, const MemoryDesc& src, const MemoryDesc& dst,
    const dnnl::memory::dims& strides, const dnnl::memory::dims& kernel,
    const dnnl::memory::dims& padding, const dnnl::primitive_attr& attr) {
  const auto kind = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::memory::dims dense(kernel.size(), 0);
  return {engine(), kind, algorithm, src, dst, strides, kernel, dense, padding, padding, attr};
#else
  return {dnnl::pooling_forward::desc(kind, algorithm, src, dst, strides, kernel, padding, padding),
          attr, engine()};
#endif
}

inline void append_eltwise(dnnl::post_ops& ops, dnnl::algorithm algorithm, float alpha,
                           float beta) {
#if DNNL_VERSION_MAJOR >= 3
  ops.append_eltwise(algorithm, alpha, beta);
#else
  ops.append_eltwise(1.0f, algorithm, alpha, beta);
#endif
}

inline dnnl::memory::data_type data_type_of(const MemoryDesc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  return desc.get_data_type();
#else
  return desc.data_type();
#endif
}

// Calls visit(value) with each number that tells this descriptor from another: type, sizes, format.
template <typename Visit>
void visit_fields(const MemoryDesc& desc, Visit&& visit) {
#if DNNL_VERSION_MAJOR >= 3
  visit(desc.get_ndims());
  visit(desc.get_data_type());
  visit(desc.get_format_kind());
  visit(desc.get_submemory_offset());
  for (const dnnl::memory::dims& list :
       {desc.get_dims(), desc.get_padded_dims(), desc.get_strides(), desc.get_inner_blks(),
        desc.get_inner_idxs()}) {
    for (dnnl::memory::dim value : list) visit(value);
  }
#else
  const dnnl_memory_desc_t& d = desc.data;
  visit(d.ndims);
  visit(d.data_type);
  visit(d.format_kind);
  visit(d.offset0);
  const dnnl_blocking_desc_t& blocking = d.format_desc.blocking;
  for (int i = 0; i < d.ndims; ++i) {
    visit(d.dims[i]);
    visit(d.padded_dims[i]);
    visit(blocking.strides[i]);
  }
  for (int i = 0; i < blocking.inner_nblks; ++i) {
    visit(blocking.inner_blks[i]);
    visit(blocking.inner_idxs[i]);
  }
#endif
}

}  // namespace ens::cpu
