/* A C program that uses libens_edge.so: CONFIG COUNT IMAGES LOGITS, files of floats,
 * and `reload`: then it reads its bundle again before it classifies once more. */
#include <stdio.h>
#include <stdlib.h>

#include "edge/ens_edge.h"

int main(int argc, char** argv) {
  char error[256];
  int64_t shape[3];
  if (argc != 5 && argc != 6) return 2;
  ens_edge* edge = ens_edge_open(argv[1], error, sizeof error);
  if (!edge) {
    fprintf(stderr, "open: %s\n", error);
    return 1;
  }
  ens_edge_image_shape(edge, shape);
  const size_t count = (size_t)atoi(argv[2]);
  const size_t in = count * (size_t)(shape[0] * shape[1] * shape[2]);
  const size_t out = count * (size_t)ens_edge_classes(edge);
  float* images = malloc(in * sizeof *images);
  float* logits = malloc(out * sizeof *logits);
  FILE* file = fopen(argv[3], "rb");
  if (!file || fread(images, sizeof *images, in, file) != in) return 2;
  fclose(file);
  int code = ens_edge_classify(edge, images, (int64_t)count, logits, error, sizeof error);
  if (argc == 6 && code == ENS_OK) {
    code = ens_edge_reload(edge, error, sizeof error);
  }
  if (argc == 6 && code == ENS_OK) {
    code = ens_edge_classify(edge, images, (int64_t)count, logits, error, sizeof error);
  }
  if (code != ENS_OK) {
    fprintf(stderr, "%s: %s\n", ens_edge_code_name(code), error);
  } else {
    file = fopen(argv[4], "wb");
    if (!file || fwrite(logits, sizeof *logits, out, file) != out || fclose(file) != 0) return 2;
    printf("%s\n", ens_edge_class_name(edge, 0));
  }
  free(images);
  free(logits);
  ens_edge_close(edge);
  return code;
}
