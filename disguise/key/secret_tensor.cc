// SPDX-License-Identifier: Apache-2.0
#include "disguise/key/secret_tensor.h"

#include <openssl/crypto.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace ens {

Tensor secret_tensor(const Shape& shape, Dtype dtype) {
  const size_t bytes = std::max<size_t>(static_cast<size_t>(shape.numel()) * size_of(dtype), 1);
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED)
    fail("there is no memory for a secret of " + std::to_string(bytes) + " bytes", "disguise key");
  madvise(pages, bytes, MADV_DONTDUMP);
  return Tensor::wrap(pages, shape, dtype, std::shared_ptr<void>(pages, [bytes](void* p) {
                        OPENSSL_cleanse(p, bytes);
                        munmap(p, bytes);
                      }));
}

Tensor take_secret(Tensor& original) {
  Tensor secret = secret_tensor(original.shape(), original.dtype());
  std::memcpy(secret.host(), original.host(), original.bytes());
  OPENSSL_cleanse(original.host(), original.bytes());
  return secret;
}

}  // namespace ens
