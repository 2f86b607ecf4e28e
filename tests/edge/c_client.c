/* SPDX-License-Identifier: Apache-2.0 */
/* A C program that uses libens_edge.so:
 *
 *   cc c_client.c $(pkg-config --cflags --libs ensembler-edge) -o c_client
 *   ./c_client "bundle: 'edge.h5' cloud: 'tcp://127.0.0.1:5755'" top cat.png
 *
 * prints the best classes of an image file, and where the time went. For tests it has three more
 * ways: CONFIG COUNT IMAGES LOGITS, files of floats, and `reload`: then it reads its bundle again
 * before it classifies once more; or CONFIG file IMAGE-FILE IMAGE and CONFIG pixels - IMAGE, which
 * write the image that the network would get. */
#include <ensembler/edge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(int code, const char* error) {
  fprintf(stderr, "%s: %s\n", ens_edge_code_name(code), error);
  return code;
}

/* The five best classes of an image file, or all if they are fewer. */
static int print_top(ens_edge* edge, const int64_t shape[3], const char* file) {
  char error[256];
  ens_edge_ranked top[5];
  ens_edge_times times;
  const int classes = ens_edge_classes(edge), count = classes < 5 ? classes : 5;
  float* image = malloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *image);
  float* logits = malloc((size_t)classes * sizeof *logits);
  int code = ens_edge_read_image(edge, file, image, error, sizeof error);
  if (code == ENS_OK) code = ens_edge_classify(edge, image, 1, logits, error, sizeof error);
  if (code == ENS_OK) code = ens_edge_top(edge, logits, count, top, error, sizeof error);
  free(image);
  free(logits);
  if (code != ENS_OK) return failed(code, error);
  for (int i = 0; i < count; ++i) {
    printf("%5.1f %%  %s\n", 100 * top[i].probability, ens_edge_class_name(edge, top[i].index));
  }
  ens_edge_last_times(edge, &times, sizeof times);
  printf("%.1f ms, %lld bytes sent\n", times.total_ms, (long long)times.bytes_sent);
  return 0;
}

/* The picture in a file, or a grey frame of 48 x 16 pixels that gets lighter to the right. */
static int prepare(ens_edge* edge, const int64_t shape[3], char** argv) {
  char error[256];
  uint8_t frame[16][64]; /* rows with padding */
  const size_t size = (size_t)(shape[0] * shape[1] * shape[2]);
  float* image = malloc(size * sizeof *image);
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 64; ++x) frame[y][x] = (uint8_t)(x * 5);
  }
  const int code = strcmp(argv[2], "file") == 0
                       ? ens_edge_read_image(edge, argv[3], image, error, sizeof error)
                       : ens_edge_fit_pixels(edge, frame[0], 1, 16, 48, sizeof frame[0], image,
                                             error, sizeof error);
  if (code != ENS_OK) failed(code, error);
  FILE* file = fopen(argv[4], "wb");
  if (!file || fwrite(image, sizeof *image, size, file) != size || fclose(file) != 0) return 2;
  free(image);
  return code;
}

int main(int argc, char** argv) {
  char error[256];
  int64_t shape[3];
  if (argc < 4 || argc > 6) return 2;
  ens_edge* edge = ens_edge_open(argv[1], error, sizeof error);
  if (!edge) {
    fprintf(stderr, "open: %s\n", error);
    return 1;
  }
  ens_edge_image_shape(edge, shape);
  if (argc == 4) {
    const int printed = print_top(edge, shape, argv[3]);
    ens_edge_close(edge);
    return printed;
  }
  if (strcmp(argv[2], "file") == 0 || strcmp(argv[2], "pixels") == 0) {
    const int prepared = prepare(edge, shape, argv);
    ens_edge_close(edge);
    return prepared;
  }
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
    failed(code, error);
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
