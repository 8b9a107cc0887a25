/* SPDX-License-Identifier: BSD-3-Clause */
/* Texts for people: see also plx_text_printable() and plx_text_quote() in <pollux/base.h>. */
#ifndef PLX_BASE_TEXT_H
#define PLX_BASE_TEXT_H

#include <pollux/base.h>

/* Puts the name of what was wrong before what err says of it. @return ret; 0 leaves err alone */
int plx_blame(const char *name, int ret, struct plx_error *err);

#endif
