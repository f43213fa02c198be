/* The version, here and nowhere else: CMake, the library's file name,
 * tessera.pc and `tessera --version` take it from these three lines. While
 * MAJOR is 0, programs must be built anew for another MINOR. */
#ifndef TESSERA_VERSION_H
#define TESSERA_VERSION_H

#define TSR_VERSION_MAJOR 0
#define TSR_VERSION_MINOR 1
#define TSR_VERSION_PATCH 0

#define TSR_VERSION_TEXT_(major, minor, patch) #major "." #minor "." #patch
#define TSR_VERSION_TEXT(major, minor, patch)                                  \
    TSR_VERSION_TEXT_(major, minor, patch)
/* "0.1.0" */
#define TSR_VERSION                                                            \
    TSR_VERSION_TEXT(TSR_VERSION_MAJOR, TSR_VERSION_MINOR, TSR_VERSION_PATCH)

#endif
