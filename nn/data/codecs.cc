#include "nn/data/codecs.h"

#include <dlfcn.h>

#include "base/error.h"

namespace ens::data {

const Codecs& codecs() {
  static const Codecs* const loaded = [] {
    void* library = dlopen("libens_codecs.so.0", RTLD_NOW | RTLD_LOCAL);
    void* entry = library ? dlsym(library, "ens_codecs") : nullptr;
    if (!entry) {
      const char* why = dlerror();
      fail(std::string("cannot load the picture and video codecs: ") + (why ? why : "?"),
           "libens_codecs.so.0", "install it beside the program, and OpenCV's packages");
    }
    return reinterpret_cast<const Codecs* (*)()>(entry)();
  }();
  return *loaded;
}

}  // namespace ens::data
