#include "tests/fault_vfs.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

enum { SECTOR_BYTES = 512, MAX_FILES = 16, NAME_BYTES = 512 };

/* A write (LENGTH bytes at OFFSET) or, with data NULL, a truncation to OFFSET. */
typedef struct {
    unsigned char *data;
    size_t offset;
    size_t length;
} Change;

/* A file as a power cut sees it. */
typedef struct {
    char name[NAME_BYTES]; /* "": free */
    unsigned char *synced;
    size_t bytes;
    Change *changes; /* since the last sync, in order */
    size_t n_changes;
} Disk;

typedef struct {
    sqlite3_file base;
    sqlite3_file *real; /* behind this struct */
    Disk *disk;         /* NULL: not watched */
} FaultFile;

static sqlite3_vfs *system_vfs;
static sqlite3_vfs fault_vfs;
static Fault fault;
static _Atomic uint64_t calls_made;
static _Atomic bool fault_came;

static pthread_mutex_t disk_mutex = PTHREAD_MUTEX_INITIALIZER;
static Disk disks[MAX_FILES];
static void (*watch_call)(void *argument);
static void *watch_argument;

/* SQLITE_OK, or the code that this call must return. */
static int come(unsigned call)
{
    if (fault.at == 0 || !(fault.calls & call))
        return SQLITE_OK;
    uint64_t number = atomic_fetch_add(&calls_made, 1) + 1;
    if (number != fault.at && !(fault.lasting && number > fault.at))
        return SQLITE_OK;
    atomic_store(&fault_came, true);
    return fault.code;
}

void fault_vfs_arm(const Fault *wanted)
{
    fault = *wanted;
    atomic_store(&calls_made, 0);
    atomic_store(&fault_came, false);
}

bool fault_vfs_disarm(void)
{
    fault.at = 0;
    return atomic_load(&fault_came);
}

static void *grow(void *block, size_t bytes)
{
    void *larger = realloc(block, bytes > 0 ? bytes : 1);
    if (larger == NULL)
        abort();
    return larger;
}

static void add_change(Disk *disk, const void *data, size_t offset, size_t length)
{
    disk->changes = grow(disk->changes, (disk->n_changes + 1) * sizeof *disk->changes);
    Change *change = &disk->changes[disk->n_changes++];
    *change = (Change){.offset = offset, .length = length};
    if (data != NULL)
        change->data = memcpy(grow(NULL, length), data, length);
}

static void resize(unsigned char **bytes, size_t *size, size_t wanted)
{
    *bytes = grow(*bytes, wanted);
    if (wanted > *size)
        memset(*bytes + *size, 0, wanted - *size);
    *size = wanted;
}

static void apply(unsigned char **bytes, size_t *size, const void *data, size_t offset,
                  size_t length)
{
    if (offset + length > *size)
        resize(bytes, size, offset + length);
    if (length > 0)
        memcpy(*bytes + offset, data, length);
}

static void forget_changes(Disk *disk)
{
    for (size_t i = 0; i < disk->n_changes; i++)
        free(disk->changes[i].data);
    free(disk->changes);
    disk->changes = NULL;
    disk->n_changes = 0;
}

static void sync_disk(Disk *disk)
{
    for (size_t i = 0; i < disk->n_changes; i++) {
        const Change *change = &disk->changes[i];
        if (change->data == NULL)
            resize(&disk->synced, &disk->bytes, change->offset);
        else
            apply(&disk->synced, &disk->bytes, change->data, change->offset, change->length);
    }
    forget_changes(disk);
}

static void free_disk(Disk *disk)
{
    forget_changes(disk);
    free(disk->synced);
    *disk = (Disk){0};
}

static Disk *find_disk(const char *name)
{
    for (size_t i = 0; i < MAX_FILES; i++)
        if (strcmp(disks[i].name, name) == 0)
            return &disks[i];
    return NULL;
}

static Disk *new_disk(const char *name)
{
    Disk *disk = find_disk(name);
    if (disk == NULL && (disk = find_disk("")) != NULL)
        snprintf(disk->name, sizeof disk->name, "%s", name);
    return disk;
}

/* Tells the watcher, then notes the change. */
static void note(const FaultFile *file, const void *data, size_t offset, size_t length)
{
    if (watch_call == NULL || file->disk == NULL)
        return;
    watch_call(watch_argument);
    pthread_mutex_lock(&disk_mutex);
    add_change(file->disk, data, offset, length);
    pthread_mutex_unlock(&disk_mutex);
}

static int file_close(sqlite3_file *base)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xClose(real);
}

static int file_read(sqlite3_file *base, void *data, int bytes, sqlite3_int64 offset)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    int code = come(FAULT_READ);
    if (code == SQLITE_IOERR_SHORT_READ)
        memset(data, 0, (size_t)bytes);
    return code != SQLITE_OK ? code : real->pMethods->xRead(real, data, bytes, offset);
}

static int file_write(sqlite3_file *base, const void *data, int bytes, sqlite3_int64 offset)
{
    FaultFile *file = (FaultFile *)base;
    sqlite3_file *real = file->real;
    int code = come(FAULT_WRITE);
    if (code == SQLITE_OK)
        note(file, data, (size_t)offset, (size_t)bytes);
    else if (fault.torn)
        real->pMethods->xWrite(real, data, bytes / 2, offset);
    return code != SQLITE_OK ? code : real->pMethods->xWrite(real, data, bytes, offset);
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 bytes)
{
    FaultFile *file = (FaultFile *)base;
    sqlite3_file *real = file->real;
    int code = come(FAULT_TRUNCATE);
    if (code == SQLITE_OK)
        note(file, NULL, (size_t)bytes, 0);
    return code != SQLITE_OK ? code : real->pMethods->xTruncate(real, bytes);
}

/* Nothing is synced for real: no power will be cut. */
static int file_sync(sqlite3_file *base, int flags)
{
    FaultFile *file = (FaultFile *)base;
    (void)flags;
    int code = come(FAULT_SYNC);
    if (code == SQLITE_OK && watch_call != NULL && file->disk != NULL) {
        watch_call(watch_argument);
        pthread_mutex_lock(&disk_mutex);
        sync_disk(file->disk);
        pthread_mutex_unlock(&disk_mutex);
    }
    return code;
}

static int file_size(sqlite3_file *base, sqlite3_int64 *bytes)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xFileSize(real, bytes);
}

static int file_lock(sqlite3_file *base, int level)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xLock(real, level);
}

static int file_unlock(sqlite3_file *base, int level)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xUnlock(real, level);
}

static int file_check_lock(sqlite3_file *base, int *reserved)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xCheckReservedLock(real, reserved);
}

static int file_control(sqlite3_file *base, int operation, void *argument)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xFileControl(real, operation, argument);
}

static int file_sector_size(sqlite3_file *base)
{
    (void)base;
    return SECTOR_BYTES;
}

/* Nothing beyond what every disk promises, whatever the system says of this one. */
static int file_characteristics(sqlite3_file *base)
{
    (void)base;
    return 0;
}

static int file_shm_map(sqlite3_file *base, int page, int bytes, int extend, void volatile **map)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    int code = come(FAULT_SHARED);
    return code != SQLITE_OK ? code : real->pMethods->xShmMap(real, page, bytes, extend, map);
}

static int file_shm_lock(sqlite3_file *base, int offset, int count, int flags)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xShmLock(real, offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *base)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    real->pMethods->xShmBarrier(real);
}

static int file_shm_unmap(sqlite3_file *base, int remove_it)
{
    sqlite3_file *real = ((FaultFile *)base)->real;
    return real->pMethods->xShmUnmap(real, remove_it);
}

static const sqlite3_io_methods METHODS = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *base, int flags,
                    int *out_flags)
{
    (void)vfs;
    FaultFile *file = (FaultFile *)base;
    *file = (FaultFile){.real = (sqlite3_file *)(void *)(file + 1)};
    int code = come(FAULT_OPEN);
    if (code == SQLITE_OK)
        code = system_vfs->xOpen(system_vfs, name, file->real, flags, out_flags);
    if (code != SQLITE_OK)
        return code;
    file->base.pMethods = &METHODS;
    pthread_mutex_lock(&disk_mutex);
    if (watch_call != NULL && name != NULL)
        file->disk = new_disk(name);
    pthread_mutex_unlock(&disk_mutex);
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    (void)vfs;
    int code = come(FAULT_DELETE);
    if (code != SQLITE_OK)
        return code;
    if (watch_call != NULL && find_disk(name) != NULL) {
        watch_call(watch_argument);
        pthread_mutex_lock(&disk_mutex);
        Disk *disk = find_disk(name);
        forget_changes(disk); /* the open file keeps its entry */
        disk->bytes = 0;
        pthread_mutex_unlock(&disk_mutex);
    }
    return system_vfs->xDelete(system_vfs, name, sync_folder);
}

void fault_vfs_install(void)
{
    system_vfs = sqlite3_vfs_find(NULL);
    assert_non_null(system_vfs);
    fault_vfs = *system_vfs;
    fault_vfs.szOsFile = (int)sizeof(FaultFile) + system_vfs->szOsFile;
    fault_vfs.zName = "fault";
    fault_vfs.xOpen = vfs_open;
    fault_vfs.xDelete = vfs_delete;
    assert_int_equal(sqlite3_vfs_register(&fault_vfs, 1), SQLITE_OK);
}

void power_watch(void (*call)(void *argument), void *argument)
{
    watch_argument = argument;
    watch_call = call;
}

void power_unwatch(void)
{
    watch_call = NULL;
    for (size_t i = 0; i < MAX_FILES; i++)
        free_disk(&disks[i]);
}

/* What is left of DISK, in *BYTES of new memory. */
static unsigned char *leave(const Disk *disk, size_t *bytes, uint64_t *state)
{
    unsigned char *left = NULL;
    *bytes = 0;
    apply(&left, bytes, disk->synced != NULL ? disk->synced : (const unsigned char *)"", 0,
          disk->bytes);
    for (size_t i = 0; i < disk->n_changes; i++) {
        const Change *change = &disk->changes[i];
        if (change->data == NULL && random_below(state, 2) == 0)
            resize(&left, bytes, change->offset);
        for (size_t at = 0; change->data != NULL && at < change->length;) {
            size_t sector = SECTOR_BYTES - (change->offset + at) % SECTOR_BYTES;
            if (sector > change->length - at)
                sector = change->length - at;
            if (random_below(state, 2) == 0)
                apply(&left, bytes, change->data + at, change->offset + at, sector);
            at += sector;
        }
    }
    return left;
}

void power_cut(const char *path, const char *copy, uint64_t *state)
{
    static const char *const suffixes[] = {"", "-wal", "-journal"};
    pthread_mutex_lock(&disk_mutex);
    for (size_t i = 0; i < 3; i++) {
        char name[NAME_BYTES];
        char copy_name[NAME_BYTES];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        snprintf(copy_name, sizeof copy_name, "%s%s", copy, suffixes[i]);
        remove(copy_name);
        const Disk *disk = find_disk(name);
        size_t bytes = 0;
        unsigned char *left = disk != NULL ? leave(disk, &bytes, state) : NULL;
        FILE *stream = bytes > 0 ? fopen(copy_name, "wb") : NULL;
        if (stream != NULL && (fwrite(left, 1, bytes, stream) != bytes || fclose(stream) != 0))
            abort();
        free(left);
    }
    pthread_mutex_unlock(&disk_mutex);
}
