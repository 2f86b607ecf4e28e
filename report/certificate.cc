// SPDX-License-Identifier: Apache-2.0
#include "report/certificate.h"

#include <fmt/format.h>

namespace ens {

std::string certificate_text(const results::Certificate& c) {
  std::string text = fmt::format(
      "A request carries at most R = {:g} bits of information about the picture, whatever the "
      "pictures "
      "and the\nattacker: mutual information, an average over the noise and no ceiling for each "
      "draw "
      "(k = {}, P = {:.4g}).\n",
      c.channel().bits(), c.channel().elements(), c.channel().power());
  if (c.channel().keyed()) {
    text +=
        "Sent again, a picture gives the same bytes; for that, attackers must not be able to break "
        "ChaCha20 and HMAC.\nNear copies add up: ";
  } else {
    text += "Sent again, a picture has new noise and the bits add up: ";
  }
  for (const auto& sends : c.sends()) {
    text += fmt::format("{}{:.0f} bits for {:.0f}", sends.sends() == 1 ? "" : ", ", sends.bits(),
                        sends.sends());
  }
  text += ".\n\n";
  if (c.has_estimate()) {
    text += fmt::format(
        "R-hat, by a {} fitted on training pictures, an upper bound of the same for pictures like "
        "these:\n{:.1f} bits ({:.1f} to {:.1f}); 99.9 % of the draws tell less than {:.1f}.\n",
        c.model(), c.estimate().mean(), c.estimate().low(), c.estimate().high(), c.largest_draws());
  } else {
    text += "No R-hat: too many elements for a full covariance.\n";
  }
  text += fmt::format(
      "Linking to a known list is not prevented: of {} candidates the likelihood finds the right "
      "one in "
      "{:.1f} % of {}\nrequests, which implies at least {:.1f} bits: {}.\n",
      c.candidates(), 100 * c.identified(), c.requests(), c.implied_bits(),
      c.sound() ? "consistent with R and R-hat"
                : "MORE THAN R OR R-HAT ALLOWS, the certificate fails");
  for (const auto& fano : c.fano()) {
    text += fano.most() < 1
                ? fmt::format("Of {:g} candidates nobody finds more than {:.0f} % (Fano).\n",
                              fano.candidates(), 100 * fano.most())
                : fmt::format("Of {:g} candidates the bound says nothing.\n", fano.candidates());
  }
  text +=
      "\nIf pictures were Gaussian (real ones can be compressed further):\n"
      "      bits     SSIM  PSNR, dB  at most, dB\n";
  for (const auto& p : c.pictures()) {
    text += fmt::format("{:>10.1f} {:>8.3f} {:>9.1f} {:>12.1f}\n", p.bits(), p.ssim(), p.psnr(),
                        p.psnr_bound());
  }
  text += fmt::format(
      "\nWeak: dFIL {:.3g}, so that an attacker without bias and prior has a squared error of at "
      "least "
      "{:.3g};\nby the entropy of Gaussian pictures at least {:.2g} (without anything sent it says "
      "hardly more).\n",
      c.fisher(), c.unbiased_mse(), c.entropy_mse());
  return text;
}

}  // namespace ens
