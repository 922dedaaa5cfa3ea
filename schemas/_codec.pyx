# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""The compiled twin of emit.py: a record's layout as a tree of C nodes, walked once per record.

The same rule: it may give up, never lie. Whatever is out of the ordinary (a list for a tuple, a second block, any error) raises, and
the whole record goes to plain.py, which decides it and names what is wrong; so nothing here explains itself.

Two habits keep memory safe. Writing: a value is held while its bytes are written, for asking an object may run Python. Reading: what is
made but not yet part of something lies on one stack; who gives up leaves it there, and `Program.read` clears it.
"""

import sys
from types import MemberDescriptorType

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_Next, PyDict_Size
from cpython.long cimport PyLong_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport INT32_MAX, INT32_MIN, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from orderflow.schemas.avsc import Array, Enum, Map, Nullable, Record, Scalar
from orderflow.schemas.plain import CodecError

cdef extern from "Python.h":
    # By pointer, unlike Cython's own declarations: a new reference belongs to the stack of values, and nothing is counted twice.
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    PyObject* PyDict_New() except NULL
    PyObject* PyLong_FromLongLong(long long) except NULL
    PyObject* PyObject_Vectorcall(PyObject*, PyObject**, size_t, PyObject*) except NULL
    PyObject* PyTuple_New(Py_ssize_t) except NULL
    PyObject* PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*) except NULL
    PyObject* PyDict_GetItemWithError(PyObject*, object) except? NULL
    int PyDict_SetItem(PyObject*, PyObject*, PyObject*) except -1
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t)
    void PyTuple_SET_ITEM(PyObject*, Py_ssize_t, PyObject*)
    void Py_INCREF(PyObject*)
    void Py_DECREF(PyObject*)
    PyObject* Py_None
    PyObject* Py_False
    PyObject* Py_True
    object PyObject_GetAttr(object, object)
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1

    ctypedef PyObject* (*getattrofunc)(PyObject*, PyObject*)
    ctypedef struct PyTypeObject:
        getattrofunc tp_getattro
    PyObject* PyObject_GenericGetAttr(PyObject*, PyObject*)
    PyTypeObject* Py_TYPE(object)

cdef extern from "structmember.h":
    int T_OBJECT_EX
    ctypedef struct PyMemberDef:
        int type
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef* d_member

cdef enum:
    LONG_BYTES_MAX = 10
    SMALL_BYTES = 1024  # of a record that is written without asking for memory
    SMALL_VALUES = 64  # of a record that is read without asking for memory for its stack

cdef enum Kind:
    STRING, BYTES, BOOLEAN, INT, LONG, ENUM, NULLABLE, ARRAY, MAP, RECORD

cdef dict KINDS = {"string": STRING, "bytes": BYTES, "boolean": BOOLEAN, "int": INT, "long": LONG}

cdef struct Node:
    Kind kind
    Node* parts  # a record's fields; what a nullable, an array or a map holds
    Py_ssize_t count  # of the parts; of an enum's symbols
    Py_ssize_t held  # the most values that lie on the stack while it is read
    PyObject* made  # a record's class; an enum's members in a tuple
    PyObject* places  # an enum's or a boolean's members in a dict, to their number
    # As a field of a record:
    PyObject* name
    Py_ssize_t slot  # where an instance of the record's class keeps it; 0: it is asked for by name
    PyObject* usual  # the default of a string, and its bytes
    const char* usual_bytes
    Py_ssize_t usual_size


# -- from the layout to nodes -------------------------------------------------------------------------------------------------------
cdef PyObject* keep(list kept, object value) except NULL:
    kept.append(value)
    return <PyObject*>value


cdef int build(Node* node, object shape, object layout, list kept, Py_ssize_t lead=0) except -1:
    """Fills the node, and everything below it. `kept` holds the objects that nodes point to."""
    cdef Py_ssize_t n
    cdef tuple fields
    node.usual_size = -1
    if isinstance(shape, Scalar):
        node.kind = KINDS[shape.kind]
        if node.kind == BOOLEAN:
            node.places = keep(kept, {False: 0, True: 1})
    elif isinstance(shape, Enum):
        node.kind = ENUM
        members = layout.members(shape)
        node.count = len(members)
        node.made = keep(kept, members)
        node.places = keep(kept, {member: n for n, member in enumerate(members)})
    elif isinstance(shape, Record):
        node.kind = RECORD
        fields = shape.fields
        made = layout.makers[shape.name]
        node.made = keep(kept, made)
        make_parts(node, len(fields))
        for n in range(node.count):
            build(&node.parts[n], fields[n].node, layout, kept)
            build_field(&node.parts[n], fields[n], made if n >= lead else None, kept)
            node.held = max(node.held, node.parts[n].held)
        node.held += node.count
    else:
        make_parts(node, 1)
        if isinstance(shape, Nullable):
            node.kind = NULLABLE
            build(node.parts, shape.of, layout, kept)
        elif isinstance(shape, Array):
            node.kind = ARRAY
            build(node.parts, shape.items, layout, kept)
        elif isinstance(shape, Map):
            node.kind = MAP
            build(node.parts, shape.values, layout, kept)
        else:
            raise CodecError(f"{shape!r} is no shape of ours")
        node.held = node.parts.held + 3  # a map: itself, a key, a value
    return 0


cdef int make_parts(Node* node, Py_ssize_t count) except -1:
    node.parts = <Node*>PyMem_Calloc(count, sizeof(Node))
    if node.parts is NULL:
        raise MemoryError
    node.count = count
    return 0


cdef int build_field(Node* node, object field, object made, list kept) except -1:
    """What a node knows as a field of the class `made`."""
    node.name = keep(kept, sys.intern(field.name))
    node.slot = slot_of(made, field.name)
    if node.kind == STRING and isinstance(field.default, str):
        node.usual = keep(kept, str(field.default))
        node.usual_bytes = PyUnicode_AsUTF8AndSize(<object>node.usual, &node.usual_size)
    return 0


cdef Py_ssize_t slot_of(object made, str name) except -1:
    """Where instances of exactly this class keep the member, as `__slots__` made it; 0 when that is not how it is looked up."""
    if not isinstance(made, type) or (<PyTypeObject*><PyObject*>made).tp_getattro != PyObject_GenericGetAttr:
        return 0
    found = getattr(made, name, None)
    if type(found) is not MemberDescriptorType or not issubclass(made, found.__objclass__):
        return 0
    cdef PyMemberDef* member = (<PyMemberDescrObject*><PyObject*>found).d_member
    return member.offset if member.type == T_OBJECT_EX else 0


cdef void forget(Node* node) noexcept:
    cdef Py_ssize_t n
    if node.parts is not NULL:
        for n in range(node.count):
            forget(&node.parts[n])
        PyMem_Free(node.parts)
        node.parts = NULL


# -- writing ------------------------------------------------------------------------------------------------------------------------
cdef struct Out:
    uint8_t* start
    uint8_t* at
    uint8_t* end
    uint8_t small[SMALL_BYTES]


cdef inline int room(Out* out, Py_ssize_t size) except -1:
    """At least so many bytes can be written."""
    return 0 if out.end - out.at >= size else grow(out, size)


cdef int grow(Out* out, Py_ssize_t size) except -1:
    cdef Py_ssize_t used = out.at - out.start
    cdef Py_ssize_t wanted = 2 * used + size
    cdef uint8_t* larger
    if out.start == out.small:
        larger = <uint8_t*>PyMem_Malloc(wanted)
        if larger is not NULL:
            memcpy(larger, out.start, used)
    else:
        larger = <uint8_t*>PyMem_Realloc(out.start, wanted)
    if larger is NULL:
        raise MemoryError
    out.start, out.at, out.end = larger, larger + used, larger + wanted
    return 0


cdef inline int put_byte(Out* out, uint8_t byte) except -1:
    room(out, 1)
    out.at[0] = byte
    out.at += 1
    return 0


cdef inline int put_long(Out* out, long long value) except -1:
    cdef uint64_t n = (<uint64_t>value << 1) ^ <uint64_t>(value >> 63)
    room(out, LONG_BYTES_MAX)
    while n > 127:
        out.at[0] = <uint8_t>(n | 128)
        out.at += 1
        n >>= 7
    out.at[0] = <uint8_t>n
    out.at += 1
    return 0


cdef inline int put_bytes(Out* out, const char* start, Py_ssize_t size) except -1:
    put_long(out, size)
    room(out, size)
    memcpy(out.at, start, size)
    out.at += size
    return 0


cdef inline int put_string(Out* out, object value) except -1:
    cdef Py_ssize_t size
    if not PyUnicode_Check(value):
        raise CodecError
    cdef const char* start = PyUnicode_AsUTF8AndSize(value, &size)
    return put_bytes(out, start, size)


cdef int put_array(Out* out, Node* items, object value) except -1:
    cdef Py_ssize_t n
    cdef object item
    if not PyTuple_CheckExact(value):
        raise CodecError
    if PyTuple_GET_SIZE(value):
        put_long(out, PyTuple_GET_SIZE(value))
        for n in range(PyTuple_GET_SIZE(value)):
            item = <object>PyTuple_GET_ITEM(<PyObject*>value, n)
            put(out, items, item)
    return put_byte(out, 0)


cdef int put_map(Out* out, Node* values, object value) except -1:
    cdef Py_ssize_t place = 0, left
    cdef PyObject* key
    cdef PyObject* found
    cdef object name, item
    if not PyDict_CheckExact(value):
        raise CodecError
    left = PyDict_Size(value)
    if left:
        put_long(out, left)
        while PyDict_Next(value, &place, &key, &found):
            name, item = <object>key, <object>found
            left -= 1
            if left < 0:
                break
            put_string(out, name)
            put(out, values, item)
        if left:  # what the values ran has changed it
            raise CodecError
    return put_byte(out, 0)


cdef int put_fields(Out* out, Node* record, object value, Py_ssize_t lead=0) except -1:
    cdef bint known = <PyObject*>Py_TYPE(value) == record.made
    cdef Py_ssize_t n
    cdef Node* field
    cdef PyObject* found
    cdef object item
    for n in range(lead, record.count):
        field = &record.parts[n]
        if known and field.slot:
            found = (<PyObject**>(<char*><PyObject*>value + field.slot))[0]
            if found is NULL:
                raise CodecError
            item = <object>found
        else:
            item = PyObject_GetAttr(value, <object>field.name)
        put(out, field, item)
    return 0


cdef int place_of(Node* node, object member) except -1:
    cdef Py_ssize_t n
    cdef PyObject* found
    for n in range(node.count):
        if PyTuple_GET_ITEM(node.made, n) == <PyObject*>member:
            return <int>n
    found = PyDict_GetItemWithError(node.places, member)
    if found is NULL:
        raise CodecError
    return <object>found


cdef int put(Out* out, Node* node, object value) except -1:
    """Writes one value."""
    cdef long long number
    cdef int overflow
    if node.kind == STRING:
        return put_string(out, value)
    elif node.kind == INT or node.kind == LONG:
        if not PyLong_Check(value):
            raise CodecError
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow or node.kind == INT and not INT32_MIN <= number <= INT32_MAX:
            raise CodecError
        return put_long(out, number)
    elif node.kind == BOOLEAN:
        if <PyObject*>value == Py_False or <PyObject*>value == Py_True:
            return put_byte(out, <PyObject*>value == Py_True)
        return put_byte(out, <uint8_t>place_of(node, value))
    elif node.kind == ENUM:
        return put_long(out, place_of(node, value))
    elif node.kind == NULLABLE:
        if value is None:
            return put_byte(out, 0)
        put_byte(out, 2)
        return put(out, node.parts, value)
    elif node.kind == RECORD:
        return put_fields(out, node, value)
    elif node.kind == ARRAY:
        return put_array(out, node.parts, value)
    elif node.kind == MAP:
        return put_map(out, node.parts, value)
    elif not PyBytes_Check(value):
        raise CodecError
    return put_bytes(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))


# -- reading ------------------------------------------------------------------------------------------------------------------------
cdef struct In:
    const uint8_t* at
    const uint8_t* end
    PyObject** top  # of the stack of values


cdef inline void push(In* data, PyObject* value) noexcept:
    data.top[0] = value
    data.top += 1


cdef inline void drop(In* data, PyObject** base) noexcept:
    while data.top > base:
        data.top -= 1
        Py_DECREF(data.top[0])


cdef inline int get_byte(In* data) except -1:
    if data.at == data.end:
        raise CodecError
    data.at += 1
    return (data.at - 1)[0]


cdef inline int get_long(In* data, long long* value) except -1:
    """In its shortest form and no longer than 64 bits."""
    cdef int byte = get_byte(data), shift = 7
    cdef uint64_t n = byte & 127
    while byte > 127:
        byte = get_byte(data)
        if byte == 0 or shift == 63 and byte != 1:
            raise CodecError
        n |= <uint64_t>(byte & 127) << shift
        shift += 7
    value[0] = <long long>(n >> 1) ^ -<long long>(n & 1)
    return 0


cdef inline int get_size(In* data, long long* size) except -1:
    """A length or a count; each byte and each item takes a byte at least, so it is bounded by the data."""
    get_long(data, size)
    if not 0 <= size[0] <= data.end - data.at:
        raise CodecError
    return 0


cdef inline PyObject* get_string(In* data, Node* node) except NULL:
    """The string at hand; the field's default is recognised without making it again."""
    cdef long long size
    get_size(data, &size)
    cdef const char* start = <const char*>data.at
    data.at += size
    if node is not NULL and size == node.usual_size and memcmp(start, node.usual_bytes, size) == 0:
        Py_INCREF(node.usual)
        return node.usual
    return PyUnicode_DecodeUTF8(start, size, NULL)


cdef inline PyObject* get_bytes(In* data) except NULL:
    cdef long long size
    get_size(data, &size)
    data.at += size
    return PyBytes_FromStringAndSize(<const char*>data.at - size, size)


cdef PyObject* get_array(In* data, Node* items) except NULL:
    cdef long long count
    cdef Py_ssize_t n
    get_size(data, &count)
    cdef PyObject* made = PyTuple_New(count)
    push(data, made)
    for n in range(count):
        PyTuple_SET_ITEM(made, n, get(data, items))
    if count and get_byte(data):
        raise CodecError
    data.top -= 1
    return made


cdef PyObject* get_map(In* data, Node* values) except NULL:
    cdef long long count
    cdef Py_ssize_t n
    get_size(data, &count)
    cdef PyObject* made = PyDict_New()
    push(data, made)
    cdef PyObject** base = data.top
    for n in range(count):
        push(data, get_string(data, NULL))
        push(data, get(data, values))
        PyDict_SetItem(made, base[0], base[1])
        drop(data, base)
    if count and get_byte(data):
        raise CodecError
    data.top -= 1
    return made


cdef PyObject* get_record(In* data, Node* record, Py_ssize_t lead=0) except NULL:
    """The record's value. A lead's fields stay on the stack."""
    cdef PyObject** base = data.top + lead
    cdef Py_ssize_t n
    for n in range(record.count):
        push(data, get(data, &record.parts[n]))
    cdef PyObject* made = PyObject_Vectorcall(record.made, base, record.count - lead, NULL)
    drop(data, base)
    return made


cdef PyObject* get(In* data, Node* node) except NULL:
    """The value at hand, a new reference."""
    cdef long long number
    cdef PyObject* found
    if node.kind == STRING:
        return get_string(data, node)
    elif node.kind == INT or node.kind == LONG:
        get_long(data, &number)
        if node.kind == INT and not INT32_MIN <= number <= INT32_MAX:
            raise CodecError
        return PyLong_FromLongLong(number)
    elif node.kind == RECORD:
        return get_record(data, node)
    elif node.kind == ARRAY:
        return get_array(data, node.parts)
    elif node.kind == MAP:
        return get_map(data, node.parts)
    elif node.kind == BYTES:
        return get_bytes(data)
    elif node.kind == NULLABLE:
        number = get_byte(data)
        if number == 2:
            return get(data, node.parts)
        found = Py_None
        if number:
            raise CodecError
    elif node.kind == ENUM:
        get_long(data, &number)
        if not 0 <= number < node.count:
            raise CodecError
        found = PyTuple_GET_ITEM(node.made, number)
    else:
        number = get_byte(data)
        if number > 1:
            raise CodecError
        found = Py_True if number else Py_False
    Py_INCREF(found)
    return found


# -- the two ways in ----------------------------------------------------------------------------------------------------------------
@cython.final
@cython.no_gc_clear
cdef class Program:
    """One record's nodes; never cleared before it is freed, for they point to what `kept` holds."""

    cdef Node root
    cdef Py_ssize_t lead
    cdef bytes header
    cdef tuple kept
    cdef object otherwise

    def __cinit__(self, layout, otherwise):
        self.lead, self.header, self.otherwise = layout.lead, layout.header, otherwise
        cdef list kept = []
        build(&self.root, layout.record, layout, kept, self.lead)
        self.kept = tuple(kept)

    def __dealloc__(self):
        forget(&self.root)

    def encode(self, value, /):
        try:
            return self.write(None, None, value)
        except Exception:
            pass
        return self.otherwise(value)

    def encode_led(self, meta, key, value, /):
        try:
            return self.write(meta, key, value)
        except Exception:
            pass
        return self.otherwise(meta, key, value)

    def decode(self, data, /):
        if PyBytes_CheckExact(data):
            try:
                return self.read(data)
            except Exception:
                pass
        return self.otherwise(data)

    cdef object write(self, object meta, object key, object value):
        cdef Out out
        out.start = out.at = out.small
        out.end = out.small + SMALL_BYTES
        try:
            room(&out, PyBytes_GET_SIZE(self.header))
            memcpy(out.at, PyBytes_AS_STRING(self.header), PyBytes_GET_SIZE(self.header))
            out.at += PyBytes_GET_SIZE(self.header)
            if self.lead:
                put(&out, &self.root.parts[0], meta)
                put(&out, &self.root.parts[1], key)
            put_fields(&out, &self.root, value, self.lead)
            return owned(PyBytes_FromStringAndSize(<char*>out.start, out.at - out.start))
        finally:
            if out.start != out.small:
                PyMem_Free(out.start)

    cdef object read(self, object data):
        cdef PyObject* small[SMALL_VALUES]
        cdef PyObject** stack = small
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.header)
        cdef In into
        into.at = <const uint8_t*>PyBytes_AS_STRING(data)
        into.end = into.at + PyBytes_GET_SIZE(data)
        if into.end - into.at < size or memcmp(into.at, PyBytes_AS_STRING(self.header), size) != 0:
            raise CodecError
        into.at += size
        if self.root.held > SMALL_VALUES:
            stack = <PyObject**>PyMem_Malloc(self.root.held * sizeof(PyObject*))
            if stack is NULL:
                raise MemoryError
        into.top = stack
        try:
            value = owned(get_record(&into, &self.root, self.lead))
            if into.at != into.end:
                raise CodecError
            return (<object>stack[0], <object>stack[1], value) if self.lead else value
        finally:
            drop(&into, stack)
            if stack != small:
                PyMem_Free(stack)


cdef object owned(PyObject* made):
    value = <object>made
    Py_DECREF(made)
    return value


def encoder(layout, otherwise):
    """`encode(value)` or, with a lead, `encode(meta, key, value)`; what it cannot do it asks of `otherwise`."""
    cdef Program program = Program(layout, otherwise)
    return program.encode_led if layout.lead else program.encode


def decoder(layout, otherwise):
    """`decode(data)`; what it cannot do it asks of `otherwise`."""
    cdef Program program = Program(layout, otherwise)
    return program.decode
