/* Numbers from text, byte counts, growing text, messages. */
#include <stdint.h>

#include "base/os.h"
#include "base/text.h"
#include "check.h"

static void test_integers(void) {
    int64_t value = 7;
    CHECK(tsr_parse_int64("0", &value) && value == 0);
    CHECK(tsr_parse_int64("-12", &value) && value == -12);
    CHECK(tsr_parse_int64("9223372036854775807", &value) && value == INT64_MAX);
    static const char *const bad[] = {"",     " 1",  "1 ",
                                      "1.5",  "1e3", "0x1",
                                      "12ab", "-",   "9223372036854775808"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_MESSAGE(!tsr_parse_int64(bad[i], &value), "'%s'", bad[i]);
    CHECK(value == INT64_MAX); /* written on success only */
}

static void test_reals(void) {
    double value = 7;
    CHECK(tsr_parse_double("3e-4", &value) && value == 3e-4);
    CHECK(tsr_parse_double("-1", &value) && value == -1);
    static const char *const bad[] = {"", " 1", "1x", "1e400", "--1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_MESSAGE(!tsr_parse_double(bad[i], &value), "'%s'", bad[i]);
    CHECK(value == -1);
}

static void test_bytes(void) {
    size_t bytes = 7;
    char text[TSR_BYTES_TEXT];
    CHECK(tsr_parse_bytes("12", &bytes) && bytes == 12);
    CHECK(tsr_parse_bytes("4K", &bytes) && bytes == 4096);
    CHECK(tsr_parse_bytes("3.5GiB", &bytes) && bytes == (size_t)7 << 29);
    CHECK(tsr_parse_bytes("2MB", &bytes) && bytes == (size_t)2 << 20);
    static const char *const bad[] = {"",    "G",   "-1",  "0",     "1Q",
                                      "1 G", "nan", "inf", "1e300T"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_MESSAGE(!tsr_parse_bytes(bad[i], &bytes), "'%s'", bad[i]);
    CHECK(strcmp(tsr_format_bytes(0, text), "0 B") == 0);
    CHECK(strcmp(tsr_format_bytes(1023, text), "1023 B") == 0);
    CHECK(strcmp(tsr_format_bytes(1536, text), "1.50 KiB") == 0);
    CHECK(strcmp(tsr_format_bytes(SIZE_MAX, text), "16.00 EiB") == 0);
}

static void test_growth(void) {
    tsr_text text = {0};
    size_t length = 0;
    for (int i = 0; i < 1000; i++) {
        tsr_text_append(&text, "%d,", i);
        length += i < 10 ? 2 : i < 100 ? 3 : 4;
    }
    CHECK_OK(tsr_text_status(&text));
    CHECK(text.count == length && strlen(text.data) == length);
    CHECK(strncmp(text.data, "0,1,2,", 6) == 0);
    tsr_text_append(&text, "%0*d", 5000, 1); /* longer than the small buffer */
    CHECK(text.count == length + 5000);
    tsr_alloc_fail_at(1);
    tsr_text_append(&text, "%0*d", 1 << 20, 1);
    tsr_alloc_fail_at(0);
    tsr_text_append(&text, "more");
    CHECK(tsr_text_status(&text) == TSR_OUT_OF_MEMORY); /* it sticks */
    CHECK(text.count == length + 5000);
    tsr_text_release(&text);
}

static void test_messages(void) {
    char longer[2 * TSR_MESSAGE_BYTES];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    CHECK(tsr_error(TSR_IO, "%s", longer) == TSR_IO);
    CHECK(strlen(tsr_last_error()) == TSR_MESSAGE_BYTES - 1);
    CHECK(tsr_error_at(TSR_IO, "place") == TSR_IO);
    CHECK(strncmp(tsr_last_error(), "place: xxx", 10) == 0);
    CHECK(strlen(tsr_last_error()) == TSR_MESSAGE_BYTES - 1);
    tsr_error(TSR_IO, "first");
    CHECK(tsr_error(TSR_INVALID_DATA, "again: %s", tsr_last_error()) ==
          TSR_INVALID_DATA);
    CHECK(strcmp(tsr_last_error(), "again: first") == 0);
    CHECK(strcmp(tsr_status_name(TSR_UNAVAILABLE), "UNAVAILABLE") == 0);
    CHECK(tsr_fail(TSR_NOT_FOUND, "%s") == TSR_NOT_FOUND);
    CHECK(strcmp(tsr_last_error(), "%s") == 0); /* no format */
}

static void test_memory(void) {
    void *memory = &memory;
    CHECK_FAILS(tsr_alloc(SIZE_MAX, 2, &memory), TSR_OUT_OF_MEMORY,
                "more than");
    CHECK(memory == NULL);
    CHECK_OK(tsr_alloc(0, 8, &memory));
    CHECK(memory == NULL);
    CHECK(tsr_os_memory_available() > 0);
    CHECK_OK(tsr_os_map((size_t)5 << 20, true, &memory)); /* huge pages, cut */
    CHECK((size_t)memory % ((size_t)2 << 20) == 0);
    memset(memory, 1, (size_t)5 << 20);
    tsr_os_unmap(memory, (size_t)5 << 20);
    CHECK_FAILS(tsr_os_map(SIZE_MAX - 4096, false, &memory), TSR_OUT_OF_MEMORY,
                "could not map");
}

int main(void) {
    test_integers();
    test_reals();
    test_bytes();
    test_growth();
    test_messages();
    test_memory();
    return 0;
}
