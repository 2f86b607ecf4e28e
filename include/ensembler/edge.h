/* SPDX-License-Identifier: Apache-2.0 */
/* The edge from C, and from whatever can call C: classify images with a remote cloud.
 *
 *   char error[512];
 *   ens_edge* edge = ens_edge_open("bundle: 'edge.h5' cloud: 'tcp://cloud.example:5755'",
 *                                  error, sizeof error);
 *   if (!edge) ...
 *   int code = ens_edge_read_image(edge, "cat.png", pixels, error, sizeof error);
 *   if (code == ENS_OK) code = ens_edge_classify(edge, pixels, 1, logits, error, sizeof error);
 *   if (code == ENS_OK) code = ens_edge_top(edge, logits, 5, top, error, sizeof error);
 *   ens_edge_close(edge);
 *
 * Link libens_edge.so (CMake: Ensembler::edge, pkg-config: ensembler-edge). <ensembler/edge.hpp> is
 * the same for C++. No exception leaves these functions. An ens_edge is used by one thread at a
 * time; several may be used side by side. `error` gets a NUL-terminated line for a person, cut to
 * `error_size` bytes and empty if all went well; it may be NULL if error_size is 0. */
#ifndef ENSEMBLER_EDGE_H
#define ENSEMBLER_EDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ens_edge ens_edge;

/* The version of the library, "0.1.0"; <ensembler/version.h> has that of the headers. */
const char* ens_edge_version(void);

/* What the functions return; docs/protocol.md says when. */
enum {
  ENS_OK = 0,
  ENS_INVALID_ARGUMENT = 1,
  ENS_FINGERPRINT_MISMATCH = 2,
  ENS_RESOURCE_EXHAUSTED = 3,
  ENS_DEADLINE_EXCEEDED = 4,
  ENS_UNAVAILABLE = 5,
  ENS_VERSION_MISMATCH = 6,
  ENS_INTERNAL = 7,
  ENS_UNAUTHENTICATED = 8
};
const char* ens_edge_code_name(int code); /* "OK", "UNAVAILABLE", ... */

/* `config`: an EdgeConfig (docs/config.md) in text form. Reads the bundle and opens the
 * connection in the background. NULL if that fails. */
ens_edge* ens_edge_open(const char* config, char* error, size_t error_size);
void ens_edge_close(ens_edge* edge); /* NULL is fine */

/* shape: channels, height, width of one image. */
void ens_edge_image_shape(const ens_edge* edge, int64_t shape[3]);
int ens_edge_classes(const ens_edge* edge);
/* Valid until the edge is closed or reloaded; NULL if there is no such class. */
const char* ens_edge_class_name(const ens_edge* edge, int index);

/* Image files and pixels in memory become one image of that shape, [0, 1], by the rules of
 * docs/images.md: turned, composited, cropped or stretched as in the network's training. `image`:
 * room for channels x height x width floats; untouched unless ENS_OK is returned.
 * Files: JPEG, PNG, BMP, TIFF, WebP or PNM. Pixels: 8 bits a sample, `stride` bytes from one row to
 * the next, from the top; channels: grey (1), grey and alpha (2), RGB (3) or RGBA (4). */
int ens_edge_read_image(const ens_edge* edge, const char* file, float* image, char* error,
                        size_t error_size);
int ens_edge_fit_pixels(const ens_edge* edge, const uint8_t* pixels, int channels, int height,
                        int width, size_t stride, float* image, char* error, size_t error_size);

/* Asks the cloud what it serves. ens_edge_classify does so by itself the first time. */
int ens_edge_check(ens_edge* edge, char* error, size_t error_size);

/* Reads the bundle's file again, for a model that changed. It replaces the bundle in use once the
 * cloud is found to serve it, and if it has the same image shape and number of classes; otherwise
 * the bundle in use stays, and the code says why. */
int ens_edge_reload(ens_edge* edge, char* error, size_t error_size);

/* images: `count` times channels x height x width floats in [0, 1], one plane after the other; with
 * another value, NaN included, ENS_INVALID_ARGUMENT.
 * logits: room for count x classes floats; untouched unless ENS_OK is returned. */
int ens_edge_classify(ens_edge* edge, const float* images, int64_t count, float* logits,
                      char* error, size_t error_size);

typedef struct ens_edge_ranked {
  int index;         /* of the class: ens_edge_class_name */
  float probability; /* softmax over all classes */
} ens_edge_ranked;

/* The k most probable classes of one image, best first. logits: `classes` of them, from
 * ens_edge_classify. top: room for k, untouched unless ENS_OK is returned. ENS_INVALID_ARGUMENT
 * unless k is 1 to classes and the logits are finite. */
int ens_edge_top(const ens_edge* edge, const float* logits, int k, ens_edge_ranked* top,
                 char* error, size_t error_size);

/* Where the time of one ens_edge_classify went, in milliseconds, and what it sent. With several
 * requests in one call, parts are sums over requests that overlap: they may exceed total_ms.
 * Later versions add members at the end. */
typedef struct ens_edge_times {
  double total_ms;
  double head_ms;    /* head and protection, on this device */
  double wire_ms;    /* round trips without what the cloud reports for itself */
  double queue_ms;   /* waiting in the cloud */
  double compute_ms; /* computing in the cloud */
  double tail_ms;    /* selector and tail, on this device */
  int64_t bytes_sent;
  int64_t bytes_received;
  int64_t rounds; /* blinded inference: requests that waited for each other; else 0 */
} ens_edge_times;

/* Those of the last ens_edge_classify that returned ENS_OK; zeros before the first. times_size:
 * sizeof(ens_edge_times), so that a program of an older version gets what it has room for. */
void ens_edge_last_times(const ens_edge* edge, ens_edge_times* times, size_t times_size);

#ifdef __cplusplus
}
#endif

#endif
