// SPDX-License-Identifier: Apache-2.0
#include <dlfcn.h>

#include "base/error.h"
#include "text/spm/spm.h"

namespace ens::spm {

const Library& library() {
  static const Library* const loaded = [] {
    // Its own symbols come first, whatever Protobuf the program has.
    int how = RTLD_NOW | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    how |= RTLD_DEEPBIND;
#endif
    void* file = dlopen("libens_spm.so.0", how);
    void* entry = file ? dlsym(file, "ens_spm") : nullptr;
    if (!entry) {
      const char* why = dlerror();
      fail(std::string("cannot load SentencePiece: ") + (why ? why : "?"), "libens_spm.so.0",
           "install it beside the program, and the package libsentencepiece0; or use "
           "text.tokeniser=word");
    }
    return reinterpret_cast<const Library* (*)()>(entry)();
  }();
  return *loaded;
}

}  // namespace ens::spm
